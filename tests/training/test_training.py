"""Tests of the training recipe on a CPU: a batch of each kind, a step, an export that the engine reads, and figures."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pypdfium2")

from PIL import Image  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from mindnlp_ocr.weights.checkpoint import open_checkpoint  # noqa: E402
from training import evaluate, finetune  # noqa: E402
from training.batches import LAYOUT_ROOM, SHARES, SYSTEM, TABLE_ROOM, Batch, Batches, text_room  # noqa: E402
from training.checkpoint import average, export, load  # noqa: E402
from training.code_blocks import CodeSheet  # noqa: E402
from training.decode import Reader, as_read  # noqa: E402
from training.degrade import Degrader, generator, normalise  # noqa: E402
from training.evaluate import (  # noqa: E402
    calibration_error,
    cells_of,
    character_error,
    distance,
    matched,
    overlap,
    regions_of,
)
from training.fonts import Store  # noqa: E402
from training.layouts import draw_layout  # noqa: E402
from training.lines import draw_empty, draw_line  # noqa: E402
from training.pages import draw_page  # noqa: E402
from training.places import owners  # noqa: E402
from training.real import RealPages, blocks  # noqa: E402
from training.regions import Region, layout_text  # noqa: E402
from training.sheet import INK  # noqa: E402
from training.tables import Cell, draw_table, otsl  # noqa: E402
from training.train import Trainer, parse, with_noise  # noqa: E402

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
    assert batch.kind == f"{'drawn' if 'drawn' in kind or kind in ('layouts', 'tables') else 'real'} {batch.kind.split()[1]}"
    room = TABLE_ROOM if kind == "tables" else text_room(height // 28, width // 28)
    assert batch.after.shape == batch.learnt.shape and batch.after.shape[1] <= room
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


def test_a_drawn_layout_boxes_the_ink_of_its_regions(store: Store) -> None:
    kinds = set()
    for seed in range(40):
        picture, text = draw_layout(store, Random(seed), 28 * max(LAYOUT_ROOM))
        regions = regions_of(text)
        assert picture.shape == (1036, 1036) and len(regions) == len(text.splitlines()) >= 1
        bare = picture.copy()
        for kind, left, top, right, bottom in regions:
            kinds.add(kind)
            assert 0 <= left < right <= 999 and 0 <= top < bottom <= 999
            x0, y0, x1, y1 = (round(v * 1.036) for v in (left, top, right, bottom))
            assert picture[y0 : y1 + 1, x0 : x1 + 1].max() > 60  # there is ink in it
            bare[max(0, y0 - 3) : y1 + 4, max(0, x0 - 3) : x1 + 4] = 0
        assert (bare > 60).mean() < 0.01  # and little beside: rules, bullets that stand out
    assert {"text", "title", "table", "image", "header", "footer", "page_number", "list", "code"} <= kinds
    assert draw_layout(store, Random(5), 616)[1] == draw_layout(store, Random(5), 616)[1]


def test_a_listing_is_one_region_with_its_numbers_and_a_name_in_the_margin_is_another(store: Store) -> None:
    for seed in range(20):
        sheet = CodeSheet(store, Random(seed), 600, 500)
        style = replace(sheet.code_style(120, 12, program=False), number_size=9.0, framed=False, names=1.0)
        first = style.number
        end = sheet.listing(120, 460, 30, 560, style)
        kinds = [region.kind for region in sheet.regions]
        assert kinds[-1] == "code" and set(kinds[:-1]) <= {"aside_text"}
        assert style.number > first and 30 < end < 570
        edges = [min(r.left for r in sheet.regions), min(r.top for r in sheet.regions)]
        edges += [max(r.right for r in sheet.regions), max(r.bottom for r in sheet.regions)]
        rows, columns = (sheet.page > INK).nonzero()
        assert edges == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]  # no ink outside of the regions
        for name in sheet.regions[:-1]:
            assert name.right <= sheet.regions[-1].left


def test_a_page_is_in_one_script(store: Store) -> None:
    simplified, traditional = set(store.texts.traditional), set(store.texts.traditional.values())
    found = []
    for seed in range(60):
        texts = [
            draw_page(store, Random(seed), 300, 400, 200, chinese=True)[1],
            draw_table(store, Random(seed), 260, 460)[1],
        ]
        for scripts in ([bool(set(text) & script) for script in (simplified, traditional)] for text in texts):
            assert not all(scripts)
            found.append(scripts)
    assert [True, False] in found and [False, True] in found


def test_a_drawn_table_has_a_place_for_every_column_of_every_row(store: Store) -> None:
    tags, drawn = set(), 0
    for seed in range(60):
        picture, text = draw_table(store, Random(seed), 260, 460)
        rows = cells_of(text)
        if not rows:
            continue
        drawn += 1
        assert len(rows) >= 2 and {len(row) for row in rows} == {len(rows[0])}
        places = [[tag for tag, _ in row] for row in rows]
        tags |= {tag for row in places for tag in row}
        assert all(row[0] not in ("lcel", "xcel") for row in places)  # nothing on the left to join to
        assert not {"ucel", "xcel"} & set(places[0])
        assert all(bool(content) == (tag == "fcel") for row in rows for tag, content in row)
        ink = (picture > 60).any(1).nonzero()[0]
        assert ink[0] < 40 and ink[-1] > 205  # the table fills the picture
    assert drawn > 20 and tags == {"fcel", "ecel", "lcel", "ucel"}
    assert draw_table(store, Random(5), 260, 460)[1] == draw_table(store, Random(5), 260, 460)[1]
    assert draw_table(store, Random(5), 20, 460)[1] == ""  # no room for two rows


def test_a_table_is_written_with_its_joined_cells() -> None:
    cells = [
        Cell(0, 0, rows=2, lines=("Item",)),
        Cell(0, 1, columns=2, lines=("Price", "net")),
        Cell(1, 1),
        Cell(1, 2, lines=("€",)),
    ]
    assert otsl(cells, 2, 3) == "<fcel>Item<fcel>Price net<lcel><nl><ucel><ecel><fcel>€<nl>"
    assert otsl([Cell(0, 0, rows=2, columns=2, lines=("电", "话"))], 2, 2, "") == "<fcel>电话<lcel><nl><ucel><xcel><nl>"


def test_paragraphs_of_other_pages_stand_in_a_layout(store: Store, real: Path) -> None:
    found = [cut for seed in range(9) for cut in blocks(RealPages(real).pdf(Random(seed)))]
    assert found and all(cut.ndim == 2 and cut.max() > 60 and np.median(cut) < 40 for cut in found)
    pages = [draw_layout(store, Random(seed), 616, lambda: found[0])[0] for seed in range(20)]
    plain = [draw_layout(store, Random(seed), 616)[0] for seed in range(20)]
    assert any(not np.array_equal(a, b) for a, b in zip(pages, plain, strict=True))


def test_regions_are_matched_by_what_they_share() -> None:
    a, b, far = (Region("text", x, 0, x + 100, 100) for x in (0, 10, 500))
    assert overlap(a, a) == 1 and overlap(a, far) == 0 and abs(overlap(a, b) - 90 / 110) < 1e-9
    assert matched([far, b, a], [a]) == [(a, a)] and matched([far], [a]) == []
    text = layout_text([a, Region("title", 0, 50, 1000, 51)], 1000, 1000)
    assert text.startswith("<|box_start|>000 000 100 100<|box_end|><|ref_start|>text<|ref_end|><|rotate_up|>\n")
    assert [region.kind for region in regions_of(text)] == ["text", "title"]


def test_grain_leaves_a_line_finite_and_readable() -> None:
    pictures = torch.zeros(4, 28, 280, dtype=torch.uint8)
    pictures[:, 8:20, 100:180] = 255
    grain = Degrader(generator("cpu", 3))._grain(pictures[:, None].float() / 255)
    assert grain.shape == (4, 1, 28, 280) and torch.isfinite(grain).all()
    assert grain[..., 10:18, 110:170].mean() > grain[..., :, :80].mean() + 0.3


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


def test_noise_replaces_tokens_of_answers_by_tokens_of_answers(store: Store, real: Path) -> None:
    torch.manual_seed(2)
    batch = batch_of("drawn_lines", store, real)
    tokens, starts = batch.after[:, :-1], batch.learnt.int().argmax(1)
    answers = torch.zeros_like(tokens, dtype=torch.bool)
    for row, (start, count) in enumerate(zip(starts, batch.learnt.sum(1), strict=True)):
        answers[row, start + 1 : start + count] = True  # the last one ends the answer
    noisy = with_noise(batch, 0.3)
    changed = noisy != tokens
    assert 0.1 < changed[answers].float().mean() < 0.35 and not changed[~answers].any()
    assert set(noisy[changed].tolist()) <= set(tokens[answers].tolist())
    assert torch.equal(with_noise(batch, 0.0), tokens)
    layout = batch_of("layouts", store, real)
    assert torch.equal(with_noise(layout, 0.3), layout.after[:, :-1])


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


# Fine-tuning


@pytest.fixture(scope="module")
def own_lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    line = Image.open("tests/pages/line_392x28.png")
    for number in range(5):
        line.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("Please keep this ticket until the exit.\n", encoding="utf8")
    (folder / "without_text.txt").write_text("no picture", encoding="utf8")
    return folder


def test_an_adapter_is_learnt_and_read_by_the_package(own_lines: Path, tmp_path: Path) -> None:
    from mindnlp_ocr.weights.lora import AdaptedCheckpoint, Adapter

    options = ["--train", str(own_lines), "--output", str(tmp_path), "--epochs", "2", "--device", "cpu", "--rank", "4"]
    figures = finetune.main([str(CHECKPOINT), *options])
    assert figures["learnt"] == 4 and figures["held out, before"]["right, %"] == 100
    adapter = Adapter(tmp_path)
    base = open_checkpoint(CHECKPOINT)
    adapted = AdaptedCheckpoint(base, adapter)
    config = adapted.config(CHECKPOINT)
    assert len(adapter.changed) == 76  # four layers in each of 8 blocks, 2 of the merger, seven in each of 6
    with base.weights(config) as before, adapted.weights(config) as after:
        for name in ("visual.blocks.0.attn.qkv.weight", "model.layers.5.mlp.down_proj.weight"):
            a, b = (np.asarray(weights[name]).astype(np.float32) for weights in (before, after))
            assert not np.array_equal(a, b) and np.abs(a - b).max() < 0.1


def test_whole_weights_are_stored_as_a_checkpoint(own_lines: Path, tmp_path: Path) -> None:
    options = ["--train", str(own_lines), "--test", str(own_lines), "--keep", str(own_lines), "--output", str(tmp_path)]
    figures = finetune.main([str(CHECKPOINT), *options, "--epochs", "1", "--device", "cpu", "--rank", "0", "--lr", "1e-5"])
    assert figures["kept, after"]["right, %"] == 100
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in CHECKPOINT.iterdir()}
    assert open_checkpoint(tmp_path).config(tmp_path) == open_checkpoint(CHECKPOINT).config(CHECKPOINT)


def test_pages_are_sized_as_the_image_processor_does() -> None:
    assert finetune.page_size(280, 415, 401408) == (280, 420)
    wide, high = finetune.page_size(2000, 1000, 401408)
    assert wide % 28 == high % 28 == 0 and wide * high <= 401408 and abs(wide / high - 2) < 0.1


def test_every_image_token_is_told_the_region_that_it_shares_most_with() -> None:
    regions = torch.tensor([[[0, 100, 200, 300, 400], [1, 100, 420, 300, 428], [-1, -1, -1, -1, -1]]])
    owner = owners(regions, 37, 37)[0].view(37, 37)
    assert owner[11, 7] == 0 and owner[0, 0] == -1
    assert set(owner[15, 4:11].tolist()) == {1}  # a region that is thinner than a token
    assert set(owner.unique().tolist()) == {-1, 0, 1}


def test_a_layout_teaches_the_heads_and_the_model_and_other_batches_the_model_alone(
    store: Store, real: Path, tmp_path: Path
) -> None:
    options = parse(["--data", "-", "--resume", str(CHECKPOINT), "--work", str(tmp_path), "--device", "cpu"])
    before = torch.tensor(Tokenizer.from_file(str(TOKENIZER)).encode(SYSTEM).ids)
    trainer = Trainer(options, load(CHECKPOINT), before)
    weights = [p.detach().clone() for p in trainer.places.parameters()]

    def unchanged() -> bool:
        return all(torch.equal(a, b) for a, b in zip(weights, trainer.places.parameters(), strict=True))

    line = batch_of("drawn_lines", store, real)
    assert line.regions.shape[1] == 0
    trainer.step(Batch(line.drawn, *(t[:2] for t in (line.pictures, line.after, line.learnt, line.regions))), 0.5)
    assert unchanged() and not trainer.parts
    layout = batch_of("layouts", store, real)
    assert layout.regions.shape[1] > 0
    trainer.step(Batch(layout.drawn, *(t[:1] for t in (layout.pictures, layout.after, layout.learnt, layout.regions))), 0.5)
    assert not unchanged() and set(trainer.parts) == {"kind", "distance", "digit"}
