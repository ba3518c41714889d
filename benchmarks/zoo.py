"""What of models that this library's authors did not write is elastic: one of each family of PaddleClas.

PaddleClas is installed into a folder of its own, and old imports get stand-ins from outside. Each model is built
untrained for ten classes, converted with three widths and traced on one random image, in a process of its own. Its
smallest and two random sub-networks are exported, each export compared with its supernet's outputs, and each trains a
step.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import subprocess
import sys
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any

PACKAGE = "paddleclas==2.6.0"
# With the side of the image that it takes.
SMALL, LARGE = 64, 224
CONVOLUTIONS = (
    "MobileNetV1_x0_25 MobileNetV2_x0_25 MobileNetV3_small_x0_35 MobileNetV4_conv_small FasterNet_T0 StarNet_S1 "
    "ResNet18 ResNet50 HRNet_W18_C PPLCNet_x0_25 PPLCNetV2_small ESNet_x0_25 PPHGNet_tiny PPHGNetV2_B0 "
    "ResNet50_vc ResNeXt50_32x4d ResNeXt50_vd_32x4d Res2Net50_14w_8s Res2Net50_vd_26w_4s SE_ResNet18_vd "
    "SE_ResNeXt50_vd_32x4d SE_ResNeXt50_32x4d DPN68 DenseNet121 EfficientNetB0 EfficientNetV2_S ResNeSt50_fast_1s1x64d "
    "ShuffleNetV2_x0_25 GhostNet_x0_5 Xception41 Xception41_deeplab ResNeXt101_32x8d_wsl SqueezeNet1_0 DarkNet53 "
    "RegNetX_200MF ReXNet_1_0 DLA34 RedNet26 HarDNet68 CSPDarkNet53 RepVGG_A0 VAN_B0 PeleeNet ConvNeXt_tiny "
    "MicroNet_M0 MobileNeXt_x0_35 TinyNet_A WideResNet"
).split()
LARGER = "AlexNet VGG11 GoogLeNet InceptionV3 InceptionV4 MixNet_S".split()  # convolutions that take a larger image
ATTENTION = (
    "ViT_small_patch16_224 DeiT_tiny_patch16_224 SwinTransformer_tiny_patch4_window7_224 CSWinTransformer_tiny_224 "
    "pcpvt_small alt_gvt_small LeViT_128S TNT_small PVT_V2_B0 MobileViT_XXS MobileViTV2_x0_5 MobileViTV3_XXS "
    "NextViT_small_224 CvT_13_224 UniFormer_small DSNet_tiny"
).split()


class _StandIn(types.ModuleType):
    """A module that the models import and do not need."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **kwargs: None})


def backbones(folder: Path) -> Any:
    """The module with every model, importing what is missing as stand-ins."""
    sys.path.insert(0, str(folder / "paddleclas"))
    for name in ("ppcls", "ppcls.arch"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder / "paddleclas" / name.replace(".", "/"))]
        sys.modules[name] = package
    while True:
        try:
            module = importlib.import_module("ppcls.arch.backbone")
            break
        except ModuleNotFoundError as error:
            if error.name is None or error.name in sys.modules or error.name.startswith("ppcls"):
                raise
            sys.modules[error.name] = stand_in = _StandIn(error.name)
            stand_in.__path__ = []
    vars(sys.modules["ppcls.utils.logger"])["_logger"] = logging.getLogger("zoo")
    return module


def row(name: str, side: int, folder: Path) -> dict[str, Any]:
    """What is found for one model."""
    import numpy as np
    import paddle

    from ofa_slim import OFA, Convert, supernet

    paddle.seed(0)
    model = _for_ten_classes(getattr(backbones(folder), name))
    model.eval()
    shape = [1, 3, side, side]
    image = paddle.randn(shape)
    whole = sum(parameter.size for parameter in model.parameters())
    start = time.perf_counter()
    converted = Convert(supernet(expand_ratio=[0.25, 0.5, 1.0])).convert(model)
    ofa = OFA(converted, example_inputs=image)
    seconds = time.perf_counter() - start
    space, rng = ofa.search_space, np.random.default_rng(0)
    configs = [space.smallest(), space.sample(rng), space.sample(rng)]
    sizes = [sum(one.size for one in ofa.export(config=config, input_shapes=shape).parameters()) for config in configs]
    ofa.train()
    pair = paddle.randn([2, 3, side, side])
    trained = ofa.train_step((pair,), _loss, configs)
    if not all(np.isfinite(float(loss)) for loss in trained):
        raise ArithmeticError("a loss is not finite")
    reasons = Counter(fixed.reason.partition(":")[0] for fixed in space.fixed)
    reasons.pop("it is an output of the model", None)
    return {
        "share": sizes[0] / whole,
        "axes": sum(axis.elastic for axis in space.axes),
        "whole": dict(reasons.most_common(2)),
        "seconds": seconds,
    }


def _for_ten_classes(build: Any) -> Any:
    for argument in ("class_num", "num_classes", "class_dim"):
        try:
            return build(pretrained=False, **{argument: 10})
        except TypeError:  # it is not called so there, or given twice
            continue
    return build(pretrained=False)


def _loss(made: Any) -> Any:
    while isinstance(made, (list, tuple)):
        made = made[0]
    return (made.astype("float32") ** 2).mean()


def main() -> int:
    """Prints a table of all models, or of those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="of PaddleClas; one of each family where left out")
    parser.add_argument("--folder", type=Path, default=Path("runs/zoo"))
    parser.add_argument("--timeout", type=int, default=300, help="seconds for one model")
    parser.add_argument("--row", action="store_true", help="print the row of one model as JSON, in this process")
    given = parser.parse_args()
    packages = given.folder / "packages"
    if not (packages / "paddleclas").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages), PACKAGE]
        subprocess.run(pip, check=True)
    sides = {name: SMALL for name in CONVOLUTIONS} | {name: LARGE for name in (*LARGER, *ATTENTION)}
    sides |= {"MobileViT_XXS": 256, "MobileViTV2_x0_5": 256, "MobileViTV3_XXS": 256, "InceptionV3": 299}
    if given.row:
        print("ROW " + json.dumps(row(given.models[0], sides.get(given.models[0], LARGE), packages)))
        return 0
    print("| model | smallest / whole | elastic widths | layers whole | seconds |\n| --- | ---: | ---: | --- | ---: |")
    below = {"convolutions": [0, 0, 0.08], "attention": [0, 0, 0.15]}
    failed = 0
    for name in given.models or sides:
        found = _row_of(name, given)
        if isinstance(found, str):
            failed += 1
            print(f"| {name} | {found} | | | |", flush=True)
            continue
        kind = below["attention" if name in ATTENTION else "convolutions"]
        kind[0] += found["share"] < kind[2]
        kind[1] += 1
        said = "; ".join(f"{count}: {reason}" for reason, count in found["whole"].items())
        print(f"| {name} | {found['share']:.3f} | {found['axes']} | {said} | {found['seconds']:.1f} |", flush=True)
    for kind_name, (good, count, limit) in below.items():
        print(f"{good} of {count} models of {kind_name} below {limit}")
    print(f"{failed} failed")
    return 0


def _row_of(name: str, given: argparse.Namespace) -> dict[str, Any] | str:
    command = [sys.executable, "-W", "ignore", __file__, name, "--row", "--folder", str(given.folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=given.timeout, check=False)
    except subprocess.TimeoutExpired:
        return f"longer than {given.timeout} s"
    rows = [line for line in done.stdout.splitlines() if line.startswith("ROW ")]
    if done.returncode == 0 and rows:
        found: dict[str, Any] = json.loads(rows[0][4:])
        return found
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.partition(":")[0]]
    return f"fails: {(errors or lines or ['no word'])[-1][:150]}"


if __name__ == "__main__":
    sys.exit(main())
