"""The demo, run in its quick form through the command line, and the parts that keep it fair."""

import base64
import contextlib
import io
import json
import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import networkx as nx
import pytest
import torch
import tutorial
from tqdm import tqdm

from advkern import backend, demo
from advkern.cli import main
from advkern.demo import efficientnet, gat, gcn, multimodal, runner, table, vit
from advkern.demo.data import Data, digit_images, digits, karate, labelled
from advkern.demo.picture import DARK, Figure, Picture
from advkern.demo.report import write

CPU = torch.device("cpu")
ACCURACY = {"karate": 0.85, "digits": 0.9, "asked digits": 0.5, "enlarged digits": 0.6}
# measured: 0.96, 0.94, 0.60 and 0.83


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What `advkern demo --quick --json` printed on stdout and stderr."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(["demo", "--quick", "--json", "--device", "cpu", "--output", str(folder)])
    assert status == 0
    return json.loads(out.getvalue()) | {"stderr": err.getvalue(), "folder": folder}


@pytest.fixture
def small():
    """The karate experiment, for four epochs."""
    return replace(gcn.experiments(CPU)[0], epochs=4)


def test_json_holds_a_row_for_each_experiment(report):
    assert {"version", "torch", "device", "threads", "rows", "pictures"} <= set(report)
    names = {field.name for field in fields(runner.Row)}
    assert all(set(row) == names for row in report["rows"])
    assert {
        ("GCN", "karate"),
        ("GCN", "digits"),
        ("NeuralODE", "hare and lynx"),
        ("ViT", "digit images"),
        ("EfficientNet", "enlarged digits"),
        ("multimodal", "asked digits"),
    } <= {(row["model"], row["data"]) for row in report["rows"]}


def test_both_models_learn(report):
    for row in report["rows"]:
        assert row["accuracy"] >= ACCURACY.get(row["data"], 0.8), row
        assert row["twin_accuracy"] >= ACCURACY.get(row["data"], 0.8), row


def test_both_models_agree(report):
    assert all(0 <= row["max_difference"] < 1e-4 for row in report["rows"])


def test_seconds_and_ratio_belong_together(report):
    for row in report["rows"]:
        assert row["seconds"] > 0 and row["twin_seconds"] > 0
        assert row["ratio"] == row["twin_seconds"] / row["seconds"]


def test_one_seed_has_no_spread(report):
    assert all(row["seeds"] == 1 and row["accuracy_spread"] is None for row in report["rows"])


def test_backend_is_the_one_that_ran(report):
    for row in report["rows"]:
        if row["model"] == "GCN":
            assert row["backend"] == backend.choose("gcn_aggregate", "cpu")


def test_backend_follows_the_choice(small):
    with backend.use_backend("torch"):
        assert runner.run([small], seeds=1)[0].row.backend == "torch"


ROW = runner.Row(
    *("GCN", "karate", 0.923, 0.012, 0.9, 0.034, 1.5, 3.0, 2.0),
    *(1_250_000, 4_500_000, 1.26e-6, "cpu", 594, 3, 200),
)
PICTURES = [
    "karate_graph",
    "digits_graph",
    "karate_attention",
    "digits_attention",
    "hare_and_lynx_fit",
    "hare_and_lynx_field",
    "vit_patches",
    "vit_class_token",
    "multimodal_blocks",
    "compound_scaling",
    "model_sizes",
    "training_curves",
]


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_images_with_something_on_them(report, name):
    path = report["folder"] / f"{name}.png"
    assert str(path) in report["pictures"]
    pixels = matplotlib.image.imread(path)
    height, width = pixels.shape[:2]
    assert 400 <= height <= 8000 and 1000 <= width <= 3000
    assert pixels[..., :3].std() > 0.05


class Page(HTMLParser):
    """What a page refers to, and what is written on it."""

    def __init__(self, text):
        super().__init__()
        self.references, self.figures, self.cells, self.words = [], [], [], []
        self.open, self.unclosed = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.references += [attributes[name] for name in ("src", "srcset", "href") if name in attributes]
        if tag not in ("meta", "img", "source", "br"):
            self.open.append(tag)
        if tag == "figure":
            self.figures.append(attributes["id"])
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.fixture(scope="module")
def page(report):
    return Page((report["folder"] / "report.html").read_text(encoding="utf-8"))


def test_page_needs_nothing_beside_itself(report, page):
    text = (report["folder"] / "report.html").read_text(encoding="utf-8")
    assert report["report"] == str(report["folder"] / "report.html")
    assert page.references and all(each.startswith("data:image/png;base64,") for each in page.references)
    for outside in ("http:", "https:", "//cdn", "@import", "url(", "<script", "<link"):
        assert outside not in text
    assert page.open == page.unclosed == []


def test_page_holds_every_picture_in_light_and_dark(report, page):
    assert page.figures == [Path(path).stem for path in report["pictures"]]
    assert set(PICTURES) <= set(page.figures)
    assert len(set(page.references)) == 2 * len(page.figures)
    for k, path in enumerate(report["pictures"]):
        dark, light = (base64.b64decode(text.partition(",")[2]) for text in page.references[2 * k : 2 * k + 2])
        assert light == Path(path).read_bytes()
        corner = lambda png: matplotlib.image.imread(io.BytesIO(png))[0, 0, :3].mean()
        assert corner(light) > 0.95 and corner(dark) < 0.2


def test_page_holds_the_table_and_the_machine(report, page):
    for row in report["rows"]:
        for cell in (
            row["model"],
            row["data"],
            f"{100 * row['accuracy']:.1f}",
            f"{row['seconds']:.2f}",
            row["backend"],
        ):
            assert cell in page.cells
    words = " ".join(page.words)
    for fact in ("Processor", torch.__version__, *backend.registered_ops()):
        assert fact in words


def test_every_picture_has_two_sentences(report):
    text = (report["folder"] / "report.html").read_text(encoding="utf-8")
    captions = re.findall("<figcaption>(.*?)</figcaption>", text)
    assert len(captions) == len(report["pictures"])
    for caption in captions:
        assert len(re.findall(r"[.](?:\s|$)", caption)) == 2, caption


def test_pictures_are_placed_alike_on_both_papers():
    """The dark one takes the light one's places, and so has the pixels that its own layout would give it."""

    def draw():
        drawn.append(Figure(figsize=(4, 3), layout="constrained"))
        left, right = drawn[-1].subplots(1, 2)
        drawn[-1].colorbar(left.imshow([[0, 1]]), ax=left, label="a long\nlabel")
        right.plot([0, 1000], label="line")
        right.legend()
        right.set_title("title")
        return drawn[-1]

    drawn = []
    light, dark = Picture("a", "b", "One. Two.", draw).pngs()
    with matplotlib.rc_context(DARK):
        alone = io.BytesIO()
        draw().savefig(alone, format="png")
    assert dark == alone.getvalue() != light
    assert len({axes.get_position().bounds for axes in drawn[0].axes}) == 3
    for places in zip(*(figure.axes for figure in drawn), strict=True):
        assert len({axes.get_position().bounds for axes in places}) == 1


def test_page_escapes_what_it_shows(tmp_path):
    odd = replace(ROW, model="<b>&")
    page, saved = write([odd], [Picture("a", "<i>", "One. Two.", lambda: Figure((1, 1)))], CPU, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;" in text and "&lt;i&gt;" in text and "<b>&" not in text and "<i>" not in text
    assert saved == [tmp_path / "a.png"]


def test_steps_of_both_are_measured_alike(report):
    for row in report["rows"]:
        assert row["peak_bytes"] > 0 and row["twin_peak_bytes"] > 0
        if row["model"] == "GAT":  # which holds no message an edge, unlike its twin
            assert row["peak_bytes"] < row["twin_peak_bytes"]


def test_peak_of_a_step_counts_gradients_and_activations(small):
    model = small.twin.build()
    before = [p.clone() for p in model.parameters()]
    peak = runner._step_peak(small, small.twin, model)
    gradients = 4 * sum(p.numel() for p in model.parameters())
    assert gradients < peak < 100 * gradients
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_progress_bar_is_silent_without_a_terminal(report):
    assert report["stderr"] == ""


def test_table_and_pictures_are_told(small, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(runner, "collect", lambda only, device, *, quick: [small])
    assert main(["demo", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for text in ("GCN", "karate", "accuracy %", "±", "ratio", "backend", "report.html"):
        assert text in printed
    assert "digits" not in printed


def test_table_shows_every_number(capsys):
    table.show([ROW], CPU)
    printed = capsys.readouterr().out
    for text in (
        "92.3 ± 1.2",
        "90.0 ± 3.4",
        "1.50",
        "3.00",
        "2.00×",
        "1.25",
        "4.5 ",
        "1.3e-06",
        "cpu",
        "594",
        "3 seeds",
    ):
        assert text in printed


def test_spread_is_the_standard_deviation_over_seeds(small):
    result = runner.run([small], seeds=2)[0]
    first, second = (training.accuracy[-1] for training in result.ours)
    assert result.row.accuracy == pytest.approx((first + second) / 2)
    assert result.row.accuracy_spread == pytest.approx(abs(first - second) / 2**0.5)


def test_same_seed_trains_both_alike(small):
    result = runner.run([small], seeds=1)[0]
    assert result.ours[0].loss == pytest.approx(result.twin[0].loss, rel=1e-4)
    assert len(result.ours[0].loss) == len(result.ours[0].accuracy) == small.epochs


def test_batches_are_shuffled_alike_and_hold_every_sample(small):
    seen = {"ours": [], "twin": []}

    def watched(name, contender):
        def scores(model, rows):
            seen[name].append(rows)
            return contender.scores(model, rows)

        return replace(contender, scores=scores)

    experiment = replace(small, batch_size=3, ours=watched("ours", small.ours), twin=watched("twin", small.twin))
    with tqdm(disable=True) as bar:
        for contender in (experiment.ours, experiment.twin):
            training = runner._train(experiment, contender, 1, bar)
    train = small.data.train.tolist()
    epochs = [seen["ours"][k : k + 4] for k in range(0, 16, 4)]  # three batches of three or fewer, then the test
    for batches in epochs:
        assert [len(rows) for rows in batches[:-1]] == [3, 3, 2]
        assert sorted(torch.cat(batches[:-1]).tolist()) == train
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))
    assert all(torch.equal(a, b) for a, b in zip(seen["ours"], seen["twin"], strict=True))
    assert len(training.loss) == 4


def test_difference_notices_another_model(small):
    wrong = replace(small, twin=runner.Contender(small.twin.build, lambda m, rows: small.twin.scores(m, rows) + 1))
    assert runner.run([wrong], seeds=1)[0].row.max_difference == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("model", [gcn, vit, efficientnet, multimodal])
def test_twin_starts_from_the_same_weights(model):
    states = []
    experiment = model.experiments(CPU)[0]
    for contender in (experiment.ours, experiment.twin):
        torch.manual_seed(3)
        states.append(contender.build().state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_quick_shortens_the_training():
    full, quick = (runner.collect(["gcn", "gcn"], CPU, quick=quick) for quick in (False, True))
    assert len(full) == len(quick) == 2
    assert all(4 * q.epochs == f.epochs for f, q in zip(full, quick, strict=True))
    assert runner.collect(["vit"], CPU, quick=True)[0].epochs == runner.QUICK_EPOCHS


def test_quick_leaves_the_naive_steps_out():
    full, quick = (runner.collect(["gat"], CPU, quick=quick) for quick in (False, True))
    assert any(each.naive for each in full)
    assert not any(each.naive for each in quick)


def test_naive_form_is_the_twin():
    experiment = gat._experiment(karate())
    twin, naive = experiment.twin.build(), experiment.naive.build()
    naive.load_state_dict(twin.state_dict())
    rows = torch.arange(len(experiment.data.labels))
    ours, theirs = runner.evaluate(naive, experiment.naive, rows), runner.evaluate(twin, experiment.twin, rows)
    torch.testing.assert_close(ours, theirs)


def test_naive_step_is_measured_and_told(capsys):
    experiment = replace(gat._experiment(karate()), epochs=2)
    row = runner.run([experiment], seeds=1)[0].row
    pairs = 34 * 34 * 16 * 4  # bytes that each of the eight heads keeps for its backward
    assert row.naive_step_bytes > 8 * pairs > row.peak_bytes
    assert row.naive_step_seconds > 0
    assert row.step_seconds == pytest.approx(row.seconds / 2)
    table.show([replace(row, naive_step_seconds=5.32, naive_step_bytes=2_624_000_000)], CPU)
    printed = " ".join(capsys.readouterr().out.split())
    assert "One training step of GAT on karate as the tutorial computes it takes 5.3 s and 2.62 GB" in printed
    table.show([replace(row, naive_step_seconds=None)], CPU)
    assert "tutorial" not in capsys.readouterr().out


@pytest.mark.parametrize(("cooling", "last"), [(False, 1.0), (True, 0.0669873)])
def test_learning_rate_falls_where_it_is_asked_to(small, cooling, last):
    experiment = replace(small, epochs=6, cooling=cooling)
    shares = [runner._share_of_rate(experiment, epoch) for epoch in range(6)]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(last)


def test_a_later_model_is_one_new_file(tmp_path, monkeypatch):
    (tmp_path / "later_model.py").write_text("def experiments(device): return [device]")
    monkeypatch.setattr(demo, "__path__", [*demo.__path__, str(tmp_path)])
    found = runner.discover()
    assert {"gcn", "later_model"} <= set(found)
    assert not {"runner", "data", "table", "picture", "pictures", "report"} & set(found)
    assert runner.collect(["later_model"], CPU) == [CPU]


@pytest.mark.parametrize(("data", "nodes", "per_class"), [(karate, 34, 4), (digits, 1797, 10)])
def test_few_nodes_are_labelled_and_all_others_tested(data, nodes, per_class):
    data = data()
    assert len(data.features) == len(data.labels) == len(data.network) == nodes
    assert data.labels[data.train].bincount().tolist() == [per_class] * len(data.classes)
    assert sorted(data.train.tolist() + data.test.tolist()) == list(range(nodes))
    assert list(data.network) == list(range(nodes))


def test_digits_are_joined_to_their_ten_nearest():
    network = digits().network
    assert min(degree for _, degree in network.degree) >= 10
    assert nx.number_of_selfloops(network) == 0
    assert digits().features.min() >= 0 and digits().features.max() == 1


def test_digit_images_are_standardised_and_a_quarter_is_tested():
    data = digit_images()
    assert data.features.shape == (1797, 1, 8, 8)
    assert float(data.features.mean()) == pytest.approx(0, abs=1e-5)
    assert float(data.features.std()) == pytest.approx(1, abs=1e-5)
    assert len(data.test) == 449 and len(data.train) == 1348
    assert torch.equal(data.labels, digits().labels)


def test_questions_have_the_answers_that_their_digits_give():
    data, text = multimodal.questions()
    assert len(data.features) == len(data.labels) == len(text) == 3 * 1797
    own = digit_images().labels.repeat_interleave(3).tolist()
    truth = {"even": {0, 2, 4, 6, 8}, "small": {0, 1, 2, 3, 4}, "prime": {2, 3, 5, 7}}
    for digit, ids, label in zip(own, text.tolist(), data.labels.tolist(), strict=True):
        first, _, word, _ = (multimodal.WORDS[i] for i in ids)
        true = digit in truth[word] if word in truth else word == str(digit)
        assert data.classes[label] == (str(digit) if first == "which" else "yes" if true else "no")


def test_no_image_is_both_trained_and_tested():
    data, _ = multimodal.questions()
    assert torch.equal(data.train_mask, digit_images().train_mask.repeat_interleave(3))


def test_yes_is_no_safe_guess():
    data, _ = multimodal.questions()
    no, yes = data.labels.bincount()[:2].tolist()
    assert 0.45 < yes / (no + yes) < 0.55


def test_eager_transformer_is_the_tutorials():
    """The twin that is measured is no handicapped one: the same numbers, gradients included, from the same weights."""
    sizes = (32, 8, 3, 10, 48, 2, 4)
    torch.manual_seed(0)
    twin = vit.EagerVisionTransformer(*sizes).double()
    theirs = tutorial.namespace()["VisionTransformer"](*sizes).double()
    theirs.load_state_dict(twin.state_dict())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    results = []
    for model in (twin, theirs):
        torch.manual_seed(1)  # dropout included
        logits, maps = model(x)
        gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
        results.append((logits, *maps, *gradients))
    for ours, other in zip(*results, strict=True):
        torch.testing.assert_close(ours, other)


def test_labelled_is_the_same_every_time():
    labels = torch.arange(40) % 4
    assert torch.equal(labelled(labels, 3), labelled(labels, 3))


def test_twin_gets_the_normalised_adjacency():
    network = nx.Graph([(0, 1, {"weight": 3.0}), (1, 2)])
    adj = torch.tensor([[1.0, 3, 0], [3, 1, 1], [0, 1, 1]])
    scale = torch.diag(torch.tensor([4.0, 5, 2]) ** -0.5)
    torch.testing.assert_close(gcn.normalized_adjacency(network).to_dense(), scale @ adj @ scale)


def test_eager_efficientnet_is_the_networks_formula():
    model = efficientnet.network().double()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    eager = efficientnet.twin().double()
    eager.load_state_dict(model.state_dict())
    x = torch.randn(4, 1, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(eager.eval()(x), model.eval()(x))
    assert not any(type(module).__module__.startswith("advkern.nn") for module in eager.modules())


def test_data_moves_as_a_whole():
    moved = karate().to(torch.device("meta"))
    assert isinstance(moved, Data)
    assert {moved.features.device.type, moved.labels.device.type, moved.train_mask.device.type} == {"meta"}
