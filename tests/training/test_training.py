"""The recipe of the checkpoint on a CPU: a batch of each kind, a step, an export that the engine reads, and figures."""

import json
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pypdfium2")

from PIL import Image  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from mindnlp_ocr.weights.checkpoint import open_checkpoint  # noqa: E402
from training import evaluate  # noqa: E402
from training.batches import LAYOUT_GRID, SHARES, Batch, Batches, text_room  # noqa: E402
from training.checkpoint import average, export, load  # noqa: E402
from training.decode import Reader, as_read  # noqa: E402
from training.degrade import Degrader, generator, normalise  # noqa: E402
from training.evaluate import calibration_error, character_error, distance  # noqa: E402
from training.fonts import Store  # noqa: E402
from training.lines import draw_empty, draw_line  # noqa: E402
from training.real import RealPages, layout  # noqa: E402
from training.train import Trainer, parse  # noqa: E402

CHECKPOINT = Path("mindnlp_ocr/assets/qwen2vl-ocr-tiny").resolve()
TOKENIZER = CHECKPOINT / "tokenizer.json"


@pytest.fixture(scope="module")
def store(data: Path) -> Store:
    return Store(data)


def batch_of(kind: str, store: Store, real: Path, tokens: int = 2600) -> Batch:
    batch = next(iter(Batches(store, RealPages(real), TOKENIZER, seed=3, tokens=tokens, shares={kind: 1.0})))
    assert isinstance(batch, Batch)
    return batch


@pytest.mark.parametrize("kind", SHARES)
def test_a_batch_of_each_kind(kind: str, store: Store, real: Path) -> None:
    batch = batch_of(kind, store, real)
    count, height, width = batch.pictures.shape
    assert count >= 8 and height % 28 == 0 and width % 28 == 0
    assert batch.kind == f"{'drawn' if 'drawn' in kind else 'real'} {batch.kind.split()[1]}"
    assert batch.after.shape == batch.learnt.shape and batch.after.shape[1] <= text_room(height // 28, width // 28)
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    end = tokenizer.token_to_id("<|im_end|>")
    for after, learnt in zip(batch.after, batch.learnt, strict=True):
        answer = after[1:][learnt[:-1]].tolist()
        assert answer[-1] == end  # what is learnt is the answer and its end
        text = tokenizer.decode(after.tolist(), skip_special_tokens=False)
        assert text.startswith("<|vision_end|>") and "<|im_start|>assistant\n" in text
    pictures = Degrader(generator("cpu", 1))(batch.pictures, batch.drawn)
    assert pictures.shape == (count, 3, height, width) and torch.isfinite(pictures).all()


def test_empty_crops_ask_for_nothing(store: Store) -> None:
    r = Random(1)
    assert all(draw_empty(store, r, 200).ndim == 2 for _ in range(30))
    drawn = [draw_line(store, r, 300) for _ in range(400)]
    assert 1 <= sum(d is not None and d[1] == "" for d in drawn) <= 30


def test_held_out_fonts_are_not_drawn_from(store: Store, data: Path) -> None:
    assert [font.name for font in store.chinese] == ["frames.ttf"]
    assert [font.name for font in Store(data, held_out=True).chinese] == ["FandolKai.ttf"]
    assert store.into_traditional("国体的") == "國體的"


def test_marks_stand_where_they_were_set(store: Store) -> None:
    texts, r = store.texts, Random(2)
    dense = texts.dense_marks(r, "电话号码发票" * 20)
    assert sum(dense.count(mark) for mark in "，。、；：") > 10
    assert set(texts.look_alike(r, "已钢" * 50)) <= set("已己巳钢铜")


def test_a_layout_names_the_paragraphs(real: Path) -> None:
    page = RealPages(real).pdf(Random(0))
    picture, text = next(found for seed in range(9) if (found := layout(Random(seed), page, LAYOUT_GRID[0] * 28)))
    boxes = [[int(v) for v in line[13:28].split()] for line in text.splitlines()]
    assert picture.shape == (616, 616) and 1 <= len(boxes) <= 2
    for x0, y0, x1, y1 in boxes:
        inside = picture[round(y0 * 0.616) : round(y1 * 0.616), round(x0 * 0.616) : round(x1 * 0.616)]
        assert inside.min() < 100  # there is ink in it


@pytest.fixture(scope="module")
def trained(store: Store, real: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A few steps on one batch from the built-in weights."""
    work = tmp_path_factory.mktemp("work")
    arguments = ["--data", "-", "--resume", str(CHECKPOINT), "--work", str(work), "--device", "cpu", "--lr", "0.02"]
    before = torch.tensor(Tokenizer.from_file(str(TOKENIZER)).encode("<|im_start|>").ids)
    trainer = Trainer(parse(arguments), load(CHECKPOINT), before)
    batch = batch_of("pdf_lines", store, real, 900)
    for _ in range(3):
        loss, taken = trainer.step(batch, 0.0)
        assert taken and 0 < loss < 20
    trainer.save()
    return trainer


def test_a_step_moves_the_weights_and_a_later_call_goes_on(trained: Trainer) -> None:
    fresh = load(CHECKPOINT).state_dict()
    moved = [name for name, tensor in trained.model.state_dict().items() if not torch.equal(tensor, fresh[name])]
    assert len(moved) > 100
    again = Trainer(trained.options, load(CHECKPOINT), trained.before)
    assert again.state == trained.state and again.state.step == 3
    for a, b in zip(again.model.parameters(), trained.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_step_without_a_finite_gradient_is_left_out(trained: Trainer, store: Store, real: Path) -> None:
    model = load(CHECKPOINT)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    arguments = ["--data", "-", "--resume", "-", "--work", str(trained.options.work / "none"), "--device", "cpu"]
    trainer = Trainer(parse(arguments), model, trained.before)
    kept = trainer.model.model.layers[0].mlp["up_proj"].weight.detach().clone()
    _, taken = trainer.step(batch_of("pdf_lines", store, real, 900), 0.5)
    assert not taken and trainer.state.left_out == 1
    assert torch.equal(kept, trainer.model.model.layers[0].mlp["up_proj"].weight)


def test_the_engine_opens_the_export_with_the_same_tensors(trained: Trainer, tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "made", ignore=shutil.ignore_patterns("*.safetensors*"))
    export(trained.mean, tmp_path / "made")
    checkpoint = open_checkpoint(tmp_path / "made")
    config = checkpoint.config(tmp_path / "made")
    with checkpoint.weights(config) as weights:
        assert set(weights) == set(trained.mean)
        for name, tensor in trained.mean.items():
            assert np.array_equal(weights.array(name).astype(np.float32), tensor.bfloat16().float().numpy()), name
    sizes = [path.stat().st_size for path in (tmp_path / "made").glob("*.safetensors")]
    assert len(sizes) == 4 and max(sizes) < 16 * 2**20


def test_the_export_of_untouched_weights_is_the_checkpoint(tmp_path: Path) -> None:
    model = load(CHECKPOINT)
    export(model.state_dict(), tmp_path / "same")
    average(CHECKPOINT, CHECKPOINT, 0.5, tmp_path / "mean")
    index = "model.safetensors.index.json"
    assert json.loads((tmp_path / "same" / index).read_text()) == json.loads((CHECKPOINT / index).read_text())
    for name, tensor in load(tmp_path / "mean").state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_the_twin_reads_a_line() -> None:
    crop = as_read(Image.open("tests/pages/line_392x28.png"))
    reading = Reader(load(CHECKPOINT), TOKENIZER).read([crop])[0]
    assert reading.text == "Please keep this ticket until the exit." and 0.9 < reading.confidence <= 1


def test_pictures_are_normalised_as_the_processor_does() -> None:
    white = normalise(torch.ones(1, 1, 2, 2))[0, :, 0, 0]
    assert torch.allclose(white, torch.tensor([1.93033, 2.07488, 2.14590]), atol=1e-4)


def test_evaluation_of_a_folder(real: Path, data: Path, tmp_path: Path) -> None:
    main = ["--pages", str(real), "--data", str(data), "--training", str(real), "--lines", "1", "--drawn-pages", "0"]
    evaluate.main([str(CHECKPOINT), *main, "--output", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["receipts: lines right, %"] == 100 and figures["receipts: character errors, %"] == 0
    assert figures["receipts, lines not trained on: character errors, %"] == 0  # there are none
    names = {name.split(":")[0] for name in figures}
    assert {"unseen fonts, simplified, noisy", "small pages, Chinese, columns", "crops without text"} <= names


def test_figures() -> None:
    from training.decode import Reading

    assert distance("kitten", "sitting") == 3 and distance("", "abc") == 3
    assert character_error([("12.50", "12.60"), ("", "ab")]) == round(100 * 3 / 7, 2)
    readings = [Reading("", p) for p in (0.9, 0.9, 0.5, 0.5)]
    assert calibration_error(readings, [True, True, True, False], bins=2) == 0.05
