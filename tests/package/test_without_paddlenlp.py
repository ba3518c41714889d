"""Where PaddleNLP is not installed, what does not need it works, and what does says so in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ofa_slim.errors import MissingPackageError
from ofa_slim.export.pretrained import build
from ofa_slim.integrations.paddlenlp import load_sequence_classifier
from ofa_slim.tasks.question_answering import squad_metrics

NOT_THERE = r"PaddleNLP, which is not installed: pip install 'paddlenlp==2\.8\.\*'"

OWN_MODELS = """
import sys
sys.modules["paddlenlp"] = None  # as where it is not installed
import tempfile
import paddle
from paddle import nn
from ofa_slim import OFA, Convert, load_subnet, save_subnet, supernet
from ofa_slim.importance import compute_neuron_head_importance, reorder_neuron_head

class Encoder(nn.Layer):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), 2)
    def forward(self, ids):
        return self.head(self.encoder(self.embed(ids)).mean(axis=1))

def cnn():
    return nn.Sequential(nn.Conv2D(3, 8, 3), nn.BatchNorm2D(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))

labels, ids = paddle.to_tensor([0, 1]), paddle.randint(0, 20, [2, 5])
model = Encoder()
reorder_neuron_head(model, *compute_neuron_head_importance("", model, [(ids, labels)], 2, 2))
for make, model, inputs in ((Encoder, model, ids), (cnn, cnn(), paddle.randn([2, 3, 8, 8]))):
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model), example_inputs=[inputs])
    ofa.train_step(inputs, lambda logits: nn.functional.cross_entropy(logits, labels))
    paddle.optimizer.SGD(0.1, parameters=ofa.parameters()).step()
    ofa.model.eval()
    config = ofa.search_space.smallest()
    with ofa.subnet(config):
        expected = ofa(inputs)
    with tempfile.TemporaryDirectory() as folder:
        save_subnet(ofa.export(config=config, input_shapes=[inputs]), folder)
        found = load_subnet(folder, make())(inputs)
    assert float((found - expected).abs().max()) < 1e-5
"""


@pytest.mark.slow
def test_models_of_ones_own_need_no_paddlenlp() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", OWN_MODELS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def _without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paddlenlp", None)


@pytest.mark.usefixtures("_without")
def test_what_needs_paddlenlp_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingPackageError, match=f"^loading a sequence classifier needs {NOT_THERE}"):
        load_sequence_classifier(tmp_path, 2)
    with pytest.raises(MissingPackageError, match=f"^the class 'BertModel' needs {NOT_THERE}"):
        build("BertModel", tmp_path, {})
    with pytest.raises(MissingPackageError, match=f"^the metric of SQuAD needs {NOT_THERE}"):
        squad_metrics([], [])


@pytest.mark.usefixtures("_without")
def test_the_trainer_needs_paddlenlp(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("ofa_slim.integrations.trainer")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingPackageError, match=f"^OFATrainer needs {NOT_THERE}"):
        import ofa_slim.integrations.trainer  # noqa: F401
