"""Does the condition still know the words? Linear probes from a VLM's last layer to the token it stands on.

    python benchmarks/condition_probe.py runs/tiny-vlm/model
    python benchmarks/condition_probe.py runs/tiny-vlm/model --fresh

A small language model trained to predict the next token alone forgets, in its last layer, which token it stands on:
nothing asks for it there. The transformer then has no words to bind to pixels. `--fresh` probes random weights of the
same configuration, which still hold every token in their residual stream.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from transformers import Qwen2_5_VLForConditionalGeneration

from genmask.conditioning import InstructionEncoder
from genmask.data.composition import COLOURS
from genmask.data.scenes import Scenes
from genmask.loading import load_model
from genmask.model_folder import load_processor
from genmask.processor import segmentation_prompt

WORDS = 36
"""The most frequent tokens of the sentences are probed."""
RIDGE = 3.0


def hidden_states(encoder: InstructionEncoder, pictures: int) -> tuple[Tensor, Tensor]:
    """Last-layer states (n, D) and token ids (n,) of the words of `pictures` drawn-scene prompts."""
    scenes, step = Scenes("val", size=96), Scenes.EXPRESSIONS_PER_SCENE
    states, tokens = [], []
    for start in range(0, pictures, 50):
        examples = [scenes[i * step + i % step] for i in range(start, min(start + 50, pictures))]
        prompts = [segmentation_prompt(example.text) for example in examples]
        batch = encoder.processor.prepare(prompts, [example.image for example in examples])
        hidden = encoder.hidden_states(batch).float()
        for row, length in enumerate(batch.prompt_lengths.tolist()):
            words = slice(length - 14, length - 3)
            states.append(hidden[row, words])
            tokens.append(batch.input_ids[row, words])
    return torch.cat(states), torch.cat(tokens)


def probe(states: Tensor, tokens: Tensor) -> dict[int, float]:
    """Held-out accuracy of a ridge classifier, by token id."""
    frequent = torch.bincount(tokens).topk(WORDS).indices
    known = torch.isin(tokens, frequent)
    states, tokens = states[known], tokens[known]
    labels = (tokens[:, None] == frequent).float().argmax(dim=1)
    states = (states - states.mean(0)) / (states.std(0) + 1e-3)
    states = torch.cat([states, torch.ones(len(states), 1)], dim=1)
    split = int(0.7 * len(states))
    x, y = states[:split], one_hot(labels[:split], WORDS).float()
    weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]), x.T @ y)
    right = (states[split:] @ weights).argmax(dim=1) == labels[split:]
    found = defaultdict(list)
    for label, hit in zip(labels[split:].tolist(), right.tolist(), strict=True):
        found[int(frequent[label])].append(hit)
    return {token: sum(hits) / len(hits) for token, hits in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, help="a VLM with its processor, or the vlm/ folder of a pipeline"
    )
    parser.add_argument("--processor", type=Path, help="the processor's folder, if it is another one")
    parser.add_argument("--fresh", action="store_true", help="random weights of the same configuration")
    parser.add_argument("--pictures", type=int, default=500)
    options = parser.parse_args()

    vlm = load_model(Qwen2_5_VLForConditionalGeneration, options.folder, dtype=torch.float32)
    processor = load_processor(options.processor or options.folder)
    if options.fresh:
        torch.manual_seed(0)
        vlm = Qwen2_5_VLForConditionalGeneration(vlm.config).eval()
    scores = probe(*hidden_states(InstructionEncoder(vlm, processor), options.pictures))
    colours = [s for t, s in scores.items() if processor.tokenizer.decode([t]).strip() in COLOURS]
    print(
        f"colour words {sum(colours) / len(colours):.2f}   all words {sum(scores.values()) / len(scores):.2f}"
    )


if __name__ == "__main__":
    main()
