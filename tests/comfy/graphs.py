"""Builds small API-form graphs for the tests and reads their tensors back."""

import json
from pathlib import Path
from typing import Any

import torch
from modality_forcing.model.diffusion.sampling import sample
from modality_forcing.model.network.checkpoint import load_transformer
from modality_forcing.tasks.host.server import Server
from safetensors import safe_open
from safetensors.torch import load_file, save_file

MODES = [("joint", 5.0), ("joint", 0.0), ("joint", -2.0), ("i2d", 5.0), ("d2i", 5.0)]


class Graph:
    """An API-form prompt that grows node by node; `add` returns the node's id, `link` one of its outputs."""

    def __init__(self) -> None:
        self.prompt: dict[str, dict[str, Any]] = {}

    def add(self, class_type: str, **inputs: Any) -> str:
        node_id = str(len(self.prompt) + 1)
        links = {name: [value, 0] if isinstance(value, Node) else value for name, value in inputs.items()}
        self.prompt[node_id] = {"class_type": class_type, "inputs": links}
        return Node(node_id)


class Node(str):
    """A node's id, usable as a link to its first output; `node[i]` links another output."""

    def __getitem__(self, output: int) -> list:
        return [str(self), output]


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest difference over the largest magnitude."""
    return float((got - want).abs().max() / want.abs().max())


class Case:
    """A checkpoint with its inputs, lying where a server finds it, and the graphs that sample it."""

    def __init__(self, server: Server, source: Path, stem: str, folder: Path) -> None:
        """`source` holds the files <stem>.checkpoint.safetensors and <stem>.case.safetensors."""
        self.server, self.folder = server, folder
        self.stem = stem
        self.checkpoint = source / f"{stem}.checkpoint.safetensors"
        target = server.models / "diffusion_models" / self.checkpoint.name
        if not target.exists():
            target.write_bytes(self.checkpoint.read_bytes())
        case = source / f"{stem}.case.safetensors"
        self.tensors = load_file(case)
        with safe_open(case, "pt") as file:
            self.settings = json.loads(file.metadata()["case"])
        self.tensors["noise"] = torch.cat([self.tensors["rgb"], self.tensors["depth"]], dim=1)
        self.module = load_transformer(self.checkpoint)
        self.write()

    def write(self) -> None:
        """Put the tensors into a file of a new name: ComfyUI reuses results of a node whose inputs are the same."""
        self.file = self.folder / f"{self.stem}_{len(list(self.folder.iterdir()))}.safetensors"
        save_file({k: v.contiguous() for k, v in self.tensors.items()}, self.file)

    def model(self, graph: Graph) -> Node:
        return graph.add("ModalityForcingLoadModel", model_name=self.checkpoint.name, weight_dtype="default")

    def load(self, graph: Graph, kind: str, key: str) -> Node:
        return graph.add(f"Test{kind}", file=str(self.file), key=key)

    def texts(self, graph: Graph) -> tuple[Node, Node]:
        return self.load(graph, "Conditioning", "context"), self.load(graph, "Conditioning", "null_context")

    def empty(self, graph: Graph) -> Node:
        batch, _, h, w = self.tensors["noise"].shape
        return graph.add("ModalityForcingEmptyLatent", width=16 * w, height=16 * h, batch_size=batch)

    def condition(self, graph: Graph, mode: str, texts: tuple, **settings: Any) -> tuple:
        """The texts with the given modality of the mode ("i2d" or "d2i"), and nothing else for "joint"."""
        if mode == "joint":
            return texts
        kind, name = ("Image", "rgb") if mode == "i2d" else ("Depth", "depth")
        values = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, **settings}
        latent = self.load(graph, "Latent", name)
        node = graph.add(
            f"ModalityForcing{kind}Condition", positive=texts[0], negative=texts[1], **{name: latent}, **values
        )
        return node[0], node[1]

    def custom_sampler(self, graph, model, sigmas, conditions, cfg, sampler="euler", latent=None, noise=None) -> Node:
        """SamplerCustomAdvanced on the case's noise."""
        positive, negative = conditions
        guider = graph.add("CFGGuider", model=model, positive=positive, negative=negative, cfg=cfg)
        return graph.add(
            "SamplerCustomAdvanced",
            noise=noise or self.load(graph, "Noise", "noise"),
            guider=guider,
            sampler=graph.add("KSamplerSelect", sampler_name=sampler),
            sigmas=sigmas,
            latent_image=latent or self.empty(graph),
        )

    def run(self, graph: Graph, latent: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the graph and return the RGB and depth of a LATENT."""
        out = self.folder / f"out{len(list(self.folder.glob('out*')))}.safetensors"
        graph.add("TestSaveLatent", latent=latent, file=str(out))
        self.server.run(graph.prompt)
        return tuple(load_file(out)["samples"].split([128, 256], dim=1))

    def reference(self, mode: str, log2_alpha: float, cfg: float, steps: int, noise=None) -> tuple:
        """The same by the plain module and sampler."""
        start = (self.tensors["rgb"], self.tensors["depth"]) if noise is None else list(noise.split([128, 256], dim=1))
        if noise is not None and mode != "joint":
            start[mode == "d2i"] = self.tensors["depth" if mode == "d2i" else "rgb"]
        texts = self.tensors["context"], self.tensors["null_context"]
        return sample(self.module, *start, *texts, steps=steps, mode=mode, cfg=cfg, log2_alpha=log2_alpha)
