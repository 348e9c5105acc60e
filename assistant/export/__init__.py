"""Take a preset elsewhere: a Hugging Face folder (:mod:`.hf`) or GGUF files for llama.cpp (:mod:`.gguf_files`)."""

from __future__ import annotations
