"""A transformer that is shown a digit and asked about it, beside the tutorial's own formula."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from advkern import plots
from advkern.demo.data import Data, digit_images
from advkern.demo.picture import Figure, Picture
from advkern.demo.runner import Contender, Experiment, Result
from advkern.demo.vit import PATCH, EagerBlock, EagerPatchEmbedding, placed
from advkern.nn import MultimodalTransformer

KINDS = {"even": (0, 2, 4, 6, 8), "small": (0, 1, 2, 3, 4), "prime": (2, 3, 5, 7)}
DIGITS = tuple(map(str, range(10)))
ANSWERS = ("no", "yes", *DIGITS)
WORDS = ("which", "is", "it", "?", *KINDS, *DIGITS)
LENGTH = 4  # words of a question
SIZES = {"img_size": 8, "patch_size": PATCH, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": len(ANSWERS)}


def experiments(device: torch.device) -> list[Experiment]:
    """Three questions about each image; those about one image in four are tested."""
    data, text = questions()
    data, text = data.to(device), text.to(device)
    sizes = SIZES | {"vocab_size": len(WORDS), "max_seq_len": LENGTH}
    return [
        Experiment(
            model="multimodal",
            data=data,
            op="vit_attention",
            ours=Contender(  # without dropout: training is too short to need it
                build=lambda: placed(
                    MultimodalTransformer(**sizes, vision_pos_embed=True, dropout=0.0), "vision_pos_embed"
                ),
                scores=lambda model, rows: model(data.features[rows], text[rows]),
            ),
            twin=Contender(
                build=lambda: placed(EagerMultimodalTransformer(**sizes), "vision_pos_embed"),
                scores=lambda model, rows: model(data.features[rows], text[rows]),
            ),
            epochs=9,
            batch_size=64,
            learning_rate=0.003,
            weight_decay=0.0,
            loss=nn.functional.cross_entropy,
            pictures=lambda result: pictures(result, text),
        )
    ]


def questions() -> tuple[Data, Tensor]:  # N = 3 x images; [N, LENGTH] ids of words
    """Every image with three questions about it."""
    images = digit_images()
    draw = random.Random(0)
    asked = [pair for digit in images.labels.tolist() for pair in ask(digit, draw)]
    thrice = lambda each: each.repeat_interleave(3, dim=0)
    data = Data(
        name="asked digits",
        title=f"{len(asked):,} questions about handwritten digits",
        features=thrice(images.features).expand(-1, 3, -1, -1),  # grey, as the model takes colours
        labels=torch.tensor([ANSWERS.index(answer) for _, answer in asked]),
        classes=ANSWERS,
        train_mask=thrice(images.train_mask),
    )
    return data, torch.tensor([[WORDS.index(word) for word in question.split()] for question, _ in asked])


def ask(digit: int, draw: random.Random) -> list[tuple[str, str]]:
    """Three questions about a digit with their answers; the one that is named is its own half the time."""
    kind = draw.choice(list(KINDS))
    named = draw.choice((digit, draw.choice([other for other in range(10) if other != digit])))
    truth = lambda true: "yes" if true else "no"
    return [
        (f"is it {kind} ?", truth(digit in KINDS[kind])),
        (f"is it {named} ?", truth(named == digit)),
        ("which is it ?", str(digit)),
    ]


def pictures(result: Result, text: Tensor) -> list[Picture]:
    """An image with two questions about it, and what patches and words attend to in each."""
    model, data = result.ours[0].model, result.experiment.data
    rows = data.test[:2]
    with torch.no_grad():
        _, maps = model.eval()(data.features[rows], text[rows], return_embeddings=True)
        answers = model(data.features[rows], text[rows]).argmax(dim=1).tolist()
    attention = maps[-1].mean_heads().cpu()
    patches = attention.shape[-1] - LENGTH
    image, asked = data.features[rows[0], 0].cpu(), text[rows].tolist()
    to_image = attention[:, patches:, :patches].sum(dim=-1).mean()

    def draw() -> Figure:
        figure = Figure(figsize=(13, 4.8), layout="constrained")
        picture, *blocks = figure.subplots(1, 3, width_ratios=(2, 3, 3))
        plots.patch_grid(image, PATCH, picture, cmap="gray_r").set_title("the image")
        for k, ax in enumerate(blocks):
            words = [WORDS[i] for i in asked[k]]
            plots.cross_modal_blocks(attention[k], patches, ax, tokens=words)
            ax.set_title(f"{' '.join(words[:-1])}? {data.classes[answers[k]]}")
            figure.colorbar(ax.images[0], ax=ax, shrink=0.7, label="attention")
        return figure

    return [
        Picture(
            name="multimodal_blocks",
            title="Attention between image and text",
            caption="A row is what a patch or a word attends to in the last block, cut into four: image to image, "
            "image to text, text to image and text to text, each with its share of what its rows pay. Words pay "
            f"{to_image:.0%} of their attention to the image that they ask about.",
            draw=draw,
        )
    ]


class EagerMultimodalTransformer(nn.Module):
    """The tutorial's, with positions of patches and without dropout; its weights have the names of ours."""

    def __init__(
        self,
        vocab_size: int,
        max_seq_len: int,
        img_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.vision_embed = EagerPatchEmbedding(img_size, patch_size, 3, embed_dim)
        self.text_embed = nn.Embedding(vocab_size, embed_dim)
        self.text_pos_embed = nn.Parameter(torch.zeros(1, max_seq_len, embed_dim))
        self.vision_type_embed = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.text_type_embed = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.blocks = nn.ModuleList(EagerBlock(embed_dim, num_heads, dropout=0.0) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        self.vision_pos_embed = nn.Parameter(torch.zeros(1, self.vision_embed.num_patches, embed_dim))
        nn.init.trunc_normal_(self.vision_pos_embed, std=0.02)

    def forward(self, images: Tensor, text_ids: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]``."""
        vision = self.vision_embed(images) + self.vision_type_embed + self.vision_pos_embed
        text = self.text_embed(text_ids) + self.text_pos_embed[:, : text_ids.shape[1]] + self.text_type_embed
        x = torch.cat((vision, text), dim=1)
        for block in self.blocks:
            x, _ = block(x)
        return self.head(self.norm(x).mean(dim=1))
