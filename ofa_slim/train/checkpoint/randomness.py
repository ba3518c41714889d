"""Random states: Paddle's own of each device, and NumPy's generators."""

from __future__ import annotations

import logging
from typing import Any

import paddle

logger = logging.getLogger(__name__)

RANDOM = "paddle-random"  # the file's name


def paddle_state() -> dict[str, list[dict[str, Any]]]:
    """The states of the CPU's generator and of those of the device in use.

    A state object shows what it holds by the protocol that `copy` uses: device number, seed, offset, and the
    engine as text. That is all there is to write; no pickle is made of it.
    """
    states = {}
    for device in dict.fromkeys(["cpu", _device()]):
        states[device] = [_shown(state) for state in paddle.get_rng_state(device)]
    return states


def random_problems(saved: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Why saved states cannot be set; empty if they can."""
    found = []
    for device, states in saved.items():
        if device not in ("cpu", _device()):
            # Said, not refused: a run may go on elsewhere, only not with the same bits.
            logger.warning("the checkpoint's random state of %s is not used, as the run is not on it now", device)
            continue
        present = len(paddle.get_rng_state(device))
        if present != len(states):
            found.append(f"random states of {len(states)} {device} devices were saved, {present} are here")
        elif any(_shown(_made(state)) != state for state in states):
            found.append(f"Paddle {paddle.version.full_version} does not read the saved random state of {device}")
    return found


def set_paddle_state(saved: dict[str, list[dict[str, Any]]]) -> None:
    """Sets what `random_problems` had nothing against."""
    own = paddle.device.get_device()
    try:
        for device, states in saved.items():
            if device in ("cpu", _device()):
                # Those of the device in use: before 3.3 `set_rng_state` fails where it is told of another.
                if device != _device():
                    paddle.device.set_device(device)
                paddle.set_rng_state([_made(state) for state in states])
                paddle.device.set_device(own)
    finally:
        paddle.device.set_device(own)


def _device() -> str:
    """The kind of device in use."""
    return paddle.device.get_device().split(":")[0]


def _shown(state: Any) -> dict[str, Any]:
    device, seed, offset, engine = state.__getstate__()
    return {"device": device, "seed": seed, "offset": offset, "engine": bytes(engine).decode("ascii")}


def _made(state: dict[str, Any]) -> Any:
    kind: Any = type(paddle.get_rng_state("cpu")[0])
    made = kind.__new__(kind)
    made.__setstate__((state["device"], state["seed"], state["offset"], list(state["engine"].encode("ascii"))))
    return made
