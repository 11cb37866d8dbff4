"""The training loop is deterministic and resumes bit for bit."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thinlens.errors import RunError, UsageError
from thinlens.signals import Interrupted
from thinlens.sparsity.masking import attach, strip
from thinlens.sparsity.pattern import Pattern
from thinlens.training.loop import Settings, Trainer
from thinlens.training.objective import ForwardFunction, PlainObjective
from thinlens.training.state import MetricsLog, load_state
from tiny_training import SETTINGS, TinyData, equal, tiny_net, train


class Recorder(PlainObjective):
    """Write down every call of the loop."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.calls: list[tuple[str, int]] = []

    def epoch_start(self, epoch: int) -> None:
        self.calls.append(("epoch", epoch))

    def after_step(self, step: int) -> None:
        self.calls.append(("step", step))

    def finish(self) -> None:
        self.calls.append(("finish", 0))


def interrupted(folder: Path, settings: Settings, at: int) -> None:
    """Train up to step `at` and stop there by a signal."""

    def progress(step: int, steps: int, values: dict[str, float]) -> None:
        if step == at:
            os.kill(os.getpid(), 15)

    with pytest.raises(Interrupted):
        Trainer(settings, folder, progress).fit(PlainObjective(tiny_net()), TinyData())


def fit(folder: Path | None, settings: Settings, data: TinyData | None = None) -> dict[str, Tensor]:
    module = tiny_net()
    Trainer(settings, folder).fit(PlainObjective(module), data or TinyData())
    return module.state_dict()


def test_the_loop_is_these_lines() -> None:
    settings = replace(SETTINGS, optimizer="adam", schedule="cosine", steps=7)
    module = nn.Conv2d(3, 3, 3, padding=1)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    Trainer(settings).fit(PlainObjective(module), TinyData())

    twin = nn.Conv2d(3, 3, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    twin.load_state_dict(start)
    optimizer = torch.optim.Adam(twin.parameters())
    for step in range(7):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * settings.lr_factor(step)
        image, target = TinyData().batch(0, 0, step)
        optimizer.zero_grad()
        loss = (twin(image.to(memory_format=torch.channels_last)) - target).abs().mean()
        loss.backward()
        optimizer.step()
    assert equal(module.state_dict(), twin.state_dict())
    assert not equal(module.state_dict(), start)


class Ending(Recorder):
    """Finish after seven steps."""

    @property
    def finished(self) -> bool:  # type: ignore[override]
        return ("step", 7) in self.calls

    def state_dict(self) -> dict[str, object]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = [*state["calls"], ("resumed", 0)]


def test_a_run_ends_when_its_objective_has_finished(tmp_path: Path) -> None:
    objective = Ending(tiny_net())
    Trainer(SETTINGS, tmp_path).fit(objective, TinyData())
    assert [step for what, step in objective.calls if what == "step"] == [1, 2, 3, 4, 5, 6, 7]
    assert objective.calls[-1] == ("finish", 0)
    state = load_state(tmp_path / "training.pt")
    assert state is not None
    assert state["counters"]["step"] == 7
    again = Ending(tiny_net())
    Trainer(SETTINGS, tmp_path).fit(again, TinyData())
    assert [what for what, _ in again.calls[-2:]] == ["resumed", "finish"]
    assert equal(again.module.state_dict(), objective.module.state_dict())


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    one, two = train(tmp_path / "1"), train(tmp_path / "2")
    assert equal(one, two)
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in "12"]
    assert logs[0] == logs[1]
    lines = [json.loads(line) for line in logs[0].splitlines()]
    assert [line["step"] for line in lines] == list(range(5, 61, 5))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert not equal(one, train(None, replace(SETTINGS, seed=1)))


def test_training_draws_nothing_from_the_callers_generator() -> None:
    before = torch.get_rng_state()
    fit(None, replace(SETTINGS, steps=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_hooks_come_in_order(tmp_path: Path) -> None:
    objective = Recorder(tiny_net())
    Trainer(replace(SETTINGS, steps=3, epoch_steps=2)).fit(objective, TinyData())
    steps = [("epoch", 0), ("step", 1), ("step", 2), ("epoch", 1), ("step", 3), ("finish", 0)]
    assert objective.calls == steps


def test_a_finished_run_returns_at_once_with_its_weights(tmp_path: Path) -> None:
    weights = fit(tmp_path, SETTINGS)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    objective = Recorder(tiny_net())
    Trainer(SETTINGS, tmp_path).fit(objective, TinyData())
    assert objective.calls == [("finish", 0)]
    assert equal(objective.module.state_dict(), weights)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_no_steps_change_nothing(tmp_path: Path) -> None:
    assert equal(fit(tmp_path, replace(SETTINGS, steps=0)), tiny_net().state_dict())
    assert not (tmp_path / "training.pt").exists()


def test_the_module_comes_back_plain() -> None:
    module = tiny_net()
    Trainer(replace(SETTINGS, steps=1)).fit(PlainObjective(module), TinyData())
    assert not any(layer.training for layer in module.modules())
    strides = [value.stride() for value in tiny_net().state_dict().values()]
    assert [value.stride() for value in module.state_dict().values()] == strides


def test_a_mask_is_kept_and_comes_off_contiguous() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1))
    mask = torch.zeros(3, 4, 3, 3, dtype=torch.bool)
    mask[:, ::2] = True
    attach(module, {"1": Pattern(mask, 2, 4)})
    Trainer(replace(SETTINGS, steps=3)).fit(PlainObjective(module), TinyData())
    plain, patterns = strip(module)
    weight = plain.get_parameter("1.weight")
    assert weight.is_contiguous()
    assert torch.equal(weight != 0, mask)
    assert torch.equal(patterns["1"].mask, mask)


def test_bf16_trains_float32_weights(tmp_path: Path) -> None:
    settings = replace(SETTINGS, precision="bf16", steps=20)
    weights, exact = fit(tmp_path, settings), fit(None, replace(settings, precision="fp32"))
    assert weights["0.weight"].dtype == torch.float32
    assert not equal(weights, exact)
    torch.testing.assert_close(weights["0.weight"], exact["0.weight"], rtol=0, atol=0.05)
    interrupted(tmp_path / "broken", settings, 7)
    assert equal(fit(tmp_path / "broken", settings), weights)


# Steps that give NaN.


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_a_nan_batch_changes_nothing(
    optimizer: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Without(TinyData):
        """The same batches without number 7."""

        def batch(self, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
            return super().batch(seed, epoch, step + (step >= 7))

    settings = replace(
        SETTINGS, optimizer=optimizer, schedule="constant", warmup=0, epoch_steps=99, steps=15
    )
    module, twin = (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)) for _ in range(2))
    twin.load_state_dict(module.state_dict())
    with caplog.at_level(logging.WARNING):
        Trainer(settings, tmp_path).fit(PlainObjective(module), TinyData(bad=frozenset({7})))
    Trainer(replace(settings, steps=14)).fit(PlainObjective(twin), Without())
    assert equal(module.state_dict(), twin.state_dict())
    assert caplog.messages == ["skipped the batch at (seed, epoch, step) (0, 0, 7): not finite"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["skipped"] for line in lines] == [0, 1, 1]


def test_a_nan_gradient_is_skipped_too(tmp_path: Path) -> None:
    class Spoiled(PlainObjective):
        """At the third loss one gradient is infinite, the loss is not."""

        losses = 0

        def loss(self, network: ForwardFunction, batch: tuple[Tensor, Tensor]) -> Tensor:
            self.losses += 1
            return super().loss(network, batch)

        def spoil(self, gradient: Tensor) -> Tensor:
            return gradient / 0 if self.losses == 3 else gradient

    objective = Spoiled(tiny_net())
    objective.module.get_parameter("0.bias").register_hook(objective.spoil)  # type: ignore[no-untyped-call]
    Trainer(replace(SETTINGS, steps=6), tmp_path).fit(objective, TinyData())
    assert all(value.isfinite().all() for value in objective.module.state_dict().values())
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["skipped"] == 1


def test_ten_nans_in_a_row_end_the_run_with_a_finite_state(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"10 steps in a row.*the last: step 19"):
        fit(tmp_path, SETTINGS, TinyData(bad=frozenset(range(9, 20))))
    state = load_state(tmp_path / "training.pt")
    assert state is not None
    assert state["counters"]["step"] == 15
    assert all(value.isfinite().all() for value in state["module"].values())
    last = (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last) == {"step": 15, "loss": None, "skipped": 6}


def test_nine_nans_do_not(tmp_path: Path) -> None:
    fit(tmp_path, SETTINGS, TinyData(bad=frozenset(range(3, 12))))


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    class Broken(PlainObjective):
        def after_step(self, step: int) -> None:
            if step == 8:
                self.module.get_parameter("0.bias").data.fill_(torch.inf)

    with pytest.raises(RunError, match="a weight is not finite after step 10"):
        Trainer(SETTINGS, tmp_path).fit(Broken(tiny_net()), TinyData())
    state = load_state(tmp_path / "training.pt")
    assert state is not None
    assert state["counters"]["step"] == 5


# What a folder may hold.


def test_a_longer_trapezoid_goes_on_from_a_flat_one(tmp_path: Path) -> None:
    longer = replace(SETTINGS, steps=80)
    interrupted(tmp_path / "run", SETTINGS, 33)  # flat up to 0.6 * 60
    assert equal(fit(tmp_path / "run", longer), fit(tmp_path / "straight", longer))
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("run", "straight")]
    assert logs[0] == logs[1]


def test_a_run_past_its_flat_part_cannot_grow(tmp_path: Path) -> None:
    interrupted(tmp_path, SETTINGS, 41)
    with pytest.raises(UsageError, match="is of a run with steps 60, not 80: choose another --out"):
        fit(tmp_path, replace(SETTINGS, steps=80))


@pytest.mark.parametrize("changed", [{"seed": 3}, {"learning_rate": 0.1}, {"steps": 4}])
def test_other_settings_are_refused_with_a_sentence(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    interrupted(tmp_path, SETTINGS, 6)
    key, value = next(iter(changed.items()))
    with pytest.raises(UsageError) as refused:
        fit(tmp_path, replace(SETTINGS, **changed))
    assert f"{key} {getattr(SETTINGS, key)}, not {value}" in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path, SETTINGS, 6)
    with pytest.raises(UsageError, match=r"training\.pt is of another network or method"):
        Trainer(SETTINGS, tmp_path).fit(PlainObjective(nn.Conv2d(3, 3, 1)), TinyData())


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "list", "folder"])
def test_a_damaged_state_is_refused_with_a_sentence(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    if damage == "cut":
        interrupted(tmp_path, SETTINGS, 6)
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "list":
        torch.save([1, 2], path)
    elif damage == "folder":
        path.mkdir()
    else:
        path.write_text("not a state" if damage == "text" else "")
    with pytest.raises(UsageError) as refused:
        fit(tmp_path, SETTINGS)
    assert f"{path} is not a training state of thinlens" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_state_of_a_later_version_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path, SETTINGS, 6)
    state = load_state(tmp_path / "training.pt")
    assert state is not None
    state["settings"]["sharpness"] = 1
    torch.save(state, tmp_path / "training.pt")
    with pytest.raises(UsageError, match=r"has the unknown key .sharpness."):
        fit(tmp_path, SETTINGS)


def test_a_state_written_before_a_setting_existed_still_loads(tmp_path: Path) -> None:
    interrupted(tmp_path, SETTINGS, 6)
    state = load_state(tmp_path / "training.pt")
    assert state is not None
    del state["settings"]["precision"]
    torch.save(state, tmp_path / "training.pt")
    assert equal(fit(tmp_path, SETTINGS), fit(None, SETTINGS))


def test_an_objective_keeps_all_kinds_of_state(tmp_path: Path) -> None:
    class Remembering(PlainObjective):
        kept: dict[str, Any]

        def state_dict(self) -> dict[str, Any]:
            return {"ranks": torch.ones(3, dtype=torch.uint8), "n": [1, 2], "a": 0.5, "s": "x"}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.kept = state

    settings = replace(SETTINGS, steps=5)
    Trainer(settings, tmp_path).fit(Remembering(tiny_net()), TinyData())
    objective = Remembering(tiny_net())
    Trainer(settings, tmp_path).fit(objective, TinyData())
    ranks = objective.kept.pop("ranks")
    assert torch.equal(ranks, torch.ones(3, dtype=torch.uint8))
    assert objective.kept == {"n": [1, 2], "a": 0.5, "s": "x"}


def test_leftovers_of_killed_runs_are_swept_and_others_kept(tmp_path: Path) -> None:
    ours, foreign = tmp_path / ".training.pt.thinlens-abcd1234", tmp_path / ".training.pt.swp"
    fresh = tmp_path / ".training.pt.thinlens-efgh5678"  # without a machine: of an earlier version
    for path in (ours, foreign, fresh):
        path.touch()
    for path in (ours, foreign):
        os.utime(path, (0, 0))
    fit(tmp_path, replace(SETTINGS, steps=0))
    assert not ours.exists()
    assert foreign.exists()
    assert fresh.exists()  # another process may be writing it now


def test_a_log_forgets_lines_after_the_state_and_lines_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 5}\n{"step": 10}\n{"step": 15}\n{"st\xff')
    MetricsLog(path, 10).append(12, {"loss": 1.0})
    assert path.read_text() == '{"step": 5}\n{"step": 10}\n{"step": 12, "loss": 1.0}\n'


def test_stages_share_a_folder_and_keep_their_own_files(tmp_path: Path) -> None:
    trainer = Trainer(SETTINGS, tmp_path)
    for name, steps in (("search", 5), ("tune", 10)):
        staged = trainer.stage(name, steps=steps)
        assert asdict(staged.settings) == {**asdict(SETTINGS), "steps": steps}
        staged.fit(PlainObjective(tiny_net()), TinyData())
    names = ["metrics-search.jsonl", "metrics-tune.jsonl", "training-search.pt", "training-tune.pt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert Trainer(SETTINGS).stage("search").folder is None


def test_progress_is_called_every_step() -> None:
    told: list[tuple[int, int]] = []

    def progress(step: int, steps: int, values: dict[str, float]) -> None:
        told.append((step, steps))
        assert values["loss"] > 0

    Trainer(replace(SETTINGS, steps=4), None, progress).fit(PlainObjective(tiny_net()), TinyData())
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"steps": -1}, "steps -1: wanted 0 or more"),
        ({"seed": -1}, "seed -1: wanted 0 or more"),
        ({"save_every": 0}, "save_every 0: wanted 1 or more"),
        ({"learning_rate": 1.0}, r"learning_rate 1.0: wanted a rate in \(0, 1\)"),
        ({"optimizer": "lion"}, "optimizer 'lion': wanted muon or adam"),
        (
            {"schedule": "sine"},
            "schedule 'sine': wanted cosine, trapezoid, step, halvings or constant",
        ),
        ({"precision": "fp8"}, "precision 'fp8': wanted fp32 or bf16"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Settings(**wrong)


class Remembering(PlainObjective):
    """Keep the weights of every step."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.seen: list[dict[str, Tensor]] = []

    def after_step(self, step: int) -> None:
        state = self.module.state_dict()
        self.seen.append({key: value.clone() for key, value in state.items()})


@pytest.mark.parametrize("average", [0.05, 0.5, 1.0])
def test_a_run_can_end_with_a_moving_average_of_its_weights(average: float) -> None:
    settings = replace(SETTINGS, steps=20, average=average)
    objective = Remembering(tiny_net())
    Trainer(settings).fit(objective, TinyData(bad=frozenset({4})))
    horizon = average * settings.steps
    assert len(objective.seen) == 19  # the spoiled batch has no part in it
    for key, ended in objective.module.state_dict().items():
        mean = torch.zeros_like(objective.seen[0][key], dtype=torch.float64)
        for count, state in enumerate(objective.seen, start=1):
            mean = mean.lerp(state[key].double(), 1 / min(count, horizon))
        if ended.is_floating_point():
            assert torch.allclose(ended.double(), mean, rtol=1e-5, atol=1e-7)
        else:
            assert torch.equal(ended, objective.seen[-1][key])


def test_a_stopped_run_with_an_average_ends_as_the_straight_one(tmp_path: Path) -> None:
    settings = replace(SETTINGS, average=0.1)
    straight = fit(tmp_path / "straight", settings)
    interrupted(tmp_path / "stopped", settings, at=33)
    assert equal(fit(tmp_path / "stopped", settings), straight)
    assert equal(fit(tmp_path / "stopped", settings), straight)  # nothing is left to do
    assert not equal(fit(tmp_path / "plain", SETTINGS), straight)
