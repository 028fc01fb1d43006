"""Turns a published checkpoint into a file for read_model(): python3 export-pytorch.py model.pt model.safetensors [number]

A .pt file is a pickle, which can run code: open only those whose origin you trust. A checkpoint with one model per instrument
holds several; number (from 0) chooses. Needs torch only.
"""
import json, struct, sys
import torch

source, target, number = (sys.argv[1:] + ["0"])[:3]
state = torch.load(source, map_location="cpu", **({"weights_only": False} if torch.__version__ >= "2" else {}))
state = state.get("model", state)
state = state[int(number)] if isinstance(state, (list, tuple)) else state
header, data = {"__metadata__": {"format": "pt"}}, b""
for name, tensor in state.items():
    if tensor.is_floating_point():
        dtype, code = ("F64", "d") if tensor.dtype == torch.float64 else ("F32", "f")
        block = struct.pack(f"<{tensor.numel()}{code}", *tensor.flatten().tolist())
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(block)]}
        data += block
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(target, "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text + data)
