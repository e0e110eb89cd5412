"""What stands for a model in tests of pages: no torch."""

import base64
import io

from PIL import Image, ImageDraw

from client.web.asking import UnknownKind, ordered
from client.web.models import Answer, ModelSaid, Reference
from common.errors import DataError


def picture(mode: str = "L", size: int = 64) -> str:
    image = Image.new(mode, (size, size))
    draw = ImageDraw.Draw(image)
    for at in range(size // 2, 0, -1):
        colour = 255 - 6 * at if mode == "L" else (255, 4 * at, 0, 255 - 6 * at)
        draw.ellipse((size // 2 - at, size // 3 - at, size // 2 + at, size // 3 + at), fill=colour)
    data = io.BytesIO()
    image.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


class Stub:
    """Answers by the words in what it is sent."""

    def __init__(self, most_bytes: int = 100_000_000) -> None:
        self._most = most_bytes

    def about(self) -> ModelSaid:
        return ModelSaid(
            job="phantom-opacity",
            job_id="ab" * 32,
            fingerprint="cd" * 32,
            modality="chest-xray",
            classes=["normal", "opacity"],
            method="analytic",
            backbone="resnet18",
            hospitals=4,
            test_images=96,
            reference=[
                Reference(name="AUROC", value=0.91, low=0.85, high=0.95),
                Reference(name="sensitivity", value=0.8, low=0.7, high=0.88),
                Reference(name="specificity", value=None),
            ],
            limits=["A research model, not a medical device: a physician decides."],
            refer_below=0.8,
            accepts=["PNG", "JPEG"],
            most_bytes=self._most,
        )

    def answer(self, data: bytes) -> Answer:
        if not data.startswith((b"\x89PNG", b"\xff\xd8")):
            raise UnknownKind("SECRET kind")
        if b"damaged" in data:
            raise DataError("/home/SECRET/patient.png")
        refer = b"unsure" in data
        return Answer(
            label=None if refer else "opacity",
            refer=refer,
            reasons=["The greatest probability is 55%; below 80% a radiologist decides."] if refer else [],
            leaning="opacity",
            words="undecided" if refer else "very likely",
            notes=["the image is dark"] if refer else [],
            probabilities=ordered({"normal": 0.45, "opacity": 0.55} if refer else {"normal": 0.03, "opacity": 0.97}),
            image=picture(),
            heatmap=picture("RGBA"),
            heatmap_words="what speaks for opacity, a class activation map",
            kind="PNG",
            seconds=0.12,
        )
