#!/usr/bin/env bash
# An adapter on SqueezeBERT's grouped convolutions: peft's LoRA mixes the groups and can never be merged, OFT fails only
# at the merge, and LoHa, LoKr and IA3 are right.
#
# Versions: peft 0.21.0, torch 2.13.0, transformers 5.24.0.
#
# Behaviour. SqueezeBERT's query, key and value are Conv1d(kernel 1, groups 4): a quarter of the outputs sees a quarter
# of the inputs.
#  - LoRA (also rsLoRA and DoRA) groups its down-projection and leaves its up-projection whole. Its update lets every
#    output see every input, which the layer cannot express: merging is refused (NotImplementedError) after the
#    training, and a comparison "LoRA against full fine-tuning" compares two classes of functions. The rank must be a
#    multiple of the groups (ValueError), and each group has rank / groups of it.
#  - LoHa and LoKr draw an update of the weight's own shape: it stays within the groups and merges to the last digits.
#    IA3 scales outputs; peft has it for Conv2d, not for Conv1d, and so are OFT, BOFT and HRA.
#  - On a Conv2d with groups, BOFT and HRA refuse when they are built; OFT is built and trained, and its merge ends in
#    a RuntimeError about a shape. AdaLoRA fails in the first forward pass.
#
# Output seen:
#   Conv1d, 4 groups: lora rank 3 ValueError, rank 4 sees 4 of 4 groups, merge NotImplementedError
#   Conv1d, 4 groups: rslora sees 4 of 4 groups, merge NotImplementedError
#   Conv1d, 4 groups: dora sees 4 of 4 groups, merge NotImplementedError
#   Conv1d, 4 groups: loha sees 1 of 4 groups, merge right
#   Conv1d, 4 groups: lokr sees 1 of 4 groups, merge right
#   Conv1d, 4 groups: oft TypeError, ia3 ValueError, hra TypeError, boft TypeError
#   Conv2d, 4 groups: ia3 sees 1 of 4 groups, merge right
#   Conv2d, 4 groups: oft sees 1 of 4 groups, merge RuntimeError
#   Conv2d, 4 groups: hra NotImplementedError, boft NotImplementedError, adalora RuntimeError
#   SqueezeBERT, query and value: lora rank 8 merge NotImplementedError, loha merge right, lokr merge right
#
# Why it matters in an encoder lab: a table of parameter-efficient methods over encoder families adapts "query and
# value" by name. On this family the LoRA row is another function class and its checkpoint can only be used with peft;
# who wants one file of weights at the end learns it after the training.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q -q --disable-pip-version-check \
    torch==2.13.0 transformers==5.24.0 peft==0.21.0 numpy==2.4.6

cat > "$work/adapters.py" <<'PY'
import copy
import warnings

import torch
import transformers
from torch import nn

import peft

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
GROUPS = 4
METHODS = {
    "lora": (peft.LoraConfig, dict(r=4)),
    "rslora": (peft.LoraConfig, dict(r=4, use_rslora=True)),
    "dora": (peft.LoraConfig, dict(r=4, use_dora=True)),
    "loha": (peft.LoHaConfig, dict(r=4)),
    "lokr": (peft.LoKrConfig, dict(r=4)),
    "oft": (peft.OFTConfig, dict(oft_block_size=2, r=0)),
    "ia3": (peft.IA3Config, dict(feedforward_modules=[])),
    "hra": (peft.HRAConfig, dict(r=2)),
    "boft": (peft.BOFTConfig, dict(boft_block_size=2)),
    "adalora": (peft.AdaLoraConfig, dict(init_r=2, total_step=10)),
}


class One(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def moved(model):
    "Give every new weight another value, as a training does."
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def adapted(name, kind, **changes):
    torch.manual_seed(0)
    config, options = METHODS[name]
    model = One(kind(8, 8, 1, groups=GROUPS))
    model = moved(peft.get_peft_model(model, config(target_modules=["layer"], **options | changes)))
    model(torch.zeros(1, 8, *[3] * (1 if kind is nn.Conv1d else 2)))
    return model


def groups_seen(model, dimensions):
    "Count the input groups that change the outputs of the first group."
    x = torch.randn(1, 8, *[3] * dimensions)
    base = model(x)[:, :2]
    seen = 0
    for group in range(GROUPS):
        other = x.clone()
        other[:, 2 * group : 2 * group + 2] += 1
        seen += bool((model(other)[:, :2] - base).abs().max() > 1e-5)
    return seen


def merge(model, *inputs):
    expected = model(*inputs)
    try:
        merged = copy.deepcopy(model).merge_and_unload()
    except Exception as e:
        return type(e).__name__
    actual = merged(*inputs)
    pair = [getattr(y, "last_hidden_state", y) for y in (expected, actual)]
    return "right" if (pair[0] - pair[1]).abs().max() < 1e-5 else "wrong"


def error(name, kind, **changes):
    try:
        adapted(name, kind, **changes)
    except Exception as e:
        return type(e).__name__
    return "none"


def line(name, kind):
    d = 1 if kind is nn.Conv1d else 2
    model = adapted(name, kind)
    x = torch.randn(2, 8, *[3] * d)
    return f"sees {groups_seen(model, d)} of {GROUPS} groups, merge {merge(model, x)}"


where = "Conv1d, 4 groups:"
print(f"{where} lora rank 3 {error('lora', nn.Conv1d, r=3)}, rank 4 {line('lora', nn.Conv1d)}")
for name in ("rslora", "dora", "loha", "lokr"):
    print(f"{where} {name} {line(name, nn.Conv1d)}")
print(where, ", ".join(f"{name} {error(name, nn.Conv1d)}" for name in ("oft", "ia3", "hra", "boft")))
where = "Conv2d, 4 groups:"
for name in ("ia3", "oft"):
    print(f"{where} {name} {line(name, nn.Conv2d)}")
print(where, ", ".join(f"{name} {error(name, nn.Conv2d)}" for name in ("hra", "boft", "adalora")))

results = []
for name, options in (("lora", dict(r=8)), ("loha", dict(r=8)), ("lokr", dict(r=8))):
    torch.manual_seed(0)
    encoder = transformers.SqueezeBertModel(
        transformers.SqueezeBertConfig(
            vocab_size=50,
            hidden_size=32,
            embedding_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
        )
    ).eval()
    config = METHODS[name][0](target_modules=["query", "value"], **options)
    model = moved(peft.get_peft_model(encoder, config))
    results.append(f"{name}{' rank 8' if name == 'lora' else ''} merge {merge(model, torch.arange(12).reshape(2, 6))}")
print("SqueezeBERT, query and value:", ", ".join(results))
PY

"$work/venv/bin/python" "$work/adapters.py" 2>/dev/null | tee "$work/seen"
cat > "$work/expected" <<'TXT'
Conv1d, 4 groups: lora rank 3 ValueError, rank 4 sees 4 of 4 groups, merge NotImplementedError
Conv1d, 4 groups: rslora sees 4 of 4 groups, merge NotImplementedError
Conv1d, 4 groups: dora sees 4 of 4 groups, merge NotImplementedError
Conv1d, 4 groups: loha sees 1 of 4 groups, merge right
Conv1d, 4 groups: lokr sees 1 of 4 groups, merge right
Conv1d, 4 groups: oft TypeError, ia3 ValueError, hra TypeError, boft TypeError
Conv2d, 4 groups: ia3 sees 1 of 4 groups, merge right
Conv2d, 4 groups: oft sees 1 of 4 groups, merge RuntimeError
Conv2d, 4 groups: hra NotImplementedError, boft NotImplementedError, adalora RuntimeError
SqueezeBERT, query and value: lora rank 8 merge NotImplementedError, loha merge right, lokr merge right
TXT
diff "$work/expected" "$work/seen"
