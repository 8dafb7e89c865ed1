"""CLIPVisionModel and CLIPImageProcessor, as WanImageToVideoPipeline uses them, on the image encoders of pipelines f and g."""

import torch
from PIL import Image

from . import pipelines
from .known import picture
from .store import Store

# pipeline, width and height of the picture
CASES = [("f", 28, 28), ("f", 64, 48), ("f", 19, 57), ("g", 24, 24), ("g", 50, 31), ("g", 9, 100)]

ABOUT = """\
KEY.picture f16 [height, width, 3] in 0..255; KEY.pixels [1, 3, S, S]: what the image processor makes of it; KEY.states [1, tokens, hidden]:
hidden_states[-2] of the image encoder at these pixels."""


def make(store: Store) -> None:
    tensors, cases = {}, []
    for number, (name, width, height) in enumerate(CASES):
        pipe = pipelines.load(store.root, name)
        key = f"{name}_{width}x{height}"
        shown = picture(width, height, torch.Generator("cpu").manual_seed(40 + number))
        pixels = pipe.image_processor(images=Image.fromarray(shown.numpy()), return_tensors="pt").pixel_values
        states = pipe.image_encoder(pixels, output_hidden_states=True).hidden_states[-2]
        tensors |= {f"{key}.picture": shown.half(), f"{key}.pixels": pixels, f"{key}.states": states}
        cases.append({"key": key, "pipeline": name})
    store.save("clip", {"about": ABOUT.split("\n"), "cases": cases}, tensors)
