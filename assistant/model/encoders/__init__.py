"""Encoders: ours and everyone else's behind one interface."""

from assistant.model.encoders.base import Encoder, EncoderInfo
from assistant.model.encoders.load import load_encoder
from assistant.model.encoders.preset import encoder_names, encoder_preset

__all__ = ["Encoder", "EncoderInfo", "encoder_names", "encoder_preset", "load_encoder"]
