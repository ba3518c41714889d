from __future__ import annotations

import ofa_slim


def test_the_public_names_stand_at_the_top() -> None:
    for name in (
        "OFA",
        "RunConfig",
        "DistillConfig",
        "TeacherCache",
        "Convert",
        "supernet",
        "dynabert_config",
        "set_state_dict",
        "SubnetConfig",
        "SearchSpace",
        "save_subnet",
        "load_subnet",
        "to_static",
        "CheckpointManager",
        "stop_on_signals",
    ):
        assert name in ofa_slim.__all__
        assert hasattr(ofa_slim, name)
