"""Uploads to a hub that a loopback server plays: told before, private, and nothing that names or shows clips."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.repocard_data import model_index_to_eval_results
from peft import PeftModel
from transformers import AutoModelForVideoClassification

from lora_deploy import cli
from lora_deploy.artifact import run
from lora_deploy.artifact.card import head, licence, with_datasets
from lora_deploy.artifact.manifest import BaseIdentity
from lora_deploy.config import load_settings
from lora_deploy.errors import (
    FileChangedError,
    FileMissingError,
    HubLoginError,
    HubRefusedError,
    HubUnreachableError,
    ManifestError,
    NotARunError,
    PublicRepoError,
    RepoNameError,
)
from lora_deploy.evaluate import evaluate
from lora_deploy.runtime.load import load
from lora_deploy.train import cards
from lora_deploy.train.push import check_login, plan_push, push
from tests.loopback_hub import TOKEN, Hub, serving
from tests.sample_reports import ACTIONS, evaluation_of, manifest_of

REPO = "anna/gestures"

# huggingface_hub 2.4 uploads large files with an argument that its HTTP client calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield served


SENT = {
    "README.md", "run.json", "config.yaml", "metrics.jsonl", "best_model.pth",
    "best_model_lora_adapter/README.md", "best_model_lora_adapter/adapter_config.json",
    "best_model_lora_adapter/adapter_model.safetensors", "best_model_lora_adapter/labels.json",
}  # fmt: skip


def test_a_run_arrives_whole_in_a_private_repository_and_opens_again(
    hub: Hub, lora_run: Path, test_clips: list[Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert cli.run(["push", str(lora_run), REPO]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == f"{hub.url}/{REPO}"
    assert hub.repos == {REPO: True}
    assert set(hub.files[REPO]) == SENT
    for name, content in hub.files[REPO].items():
        assert content == (lora_run / name).read_bytes(), name
        path = tmp_path / "again" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    again, here = load(tmp_path / "again"), load(lora_run)
    assert again.classify(test_clips[0]) == here.classify(test_clips[0])


def test_what_will_go_and_what_stays_is_told_before_anything_goes(
    hub: Hub, lora_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["push", str(lora_run), REPO, "--dry-run"]) == 0
    told = capsys.readouterr().err
    assert hub.asked == []
    for name in SENT:
        assert f"  {name} " in told
    assert f"to {REPO} (private)" in told
    assert "splits.csv stays here: it names clips (--with-clips sends it)" in told
    assert "report.html stays here: it shows clips and names them" in told
    assert "by its place on this computer" in told
    assert "nothing was uploaded" in told
    assert cli.run(["push", str(lora_run), REPO, "--public", "--dry-run"]) == 0
    assert "everybody can read it" in capsys.readouterr().err


def test_clips_are_named_and_shown_only_where_it_was_asked_for(
    hub: Hub, lora_run: Path, test_clips: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    push(plan_push(lora_run, REPO))
    for name, content in hub.files[REPO].items():
        for clip in test_clips:
            assert clip.name.encode() not in content, name
            assert str(clip.parent).encode() not in content, name
    assert cli.run(["push", str(lora_run), REPO, "--with-clips"]) == 0
    assert set(hub.files[REPO]) == SENT | {"splits.csv", "report.html"}
    assert "what names files of this computer and shows clips goes along" in capsys.readouterr().err


def test_nothing_that_was_laid_beside_goes_along(hub: Hub, run_copy: Path) -> None:
    (run_copy / "secret.txt").write_text("x")
    (run_copy / "best_model_lora_adapter" / ".env").write_text("x")
    assert {name for name, _ in plan_push(run_copy, REPO).files} == SENT


def test_a_weight_that_training_did_not_leave_is_not_sent(hub: Hub, run_copy: Path) -> None:
    with (run_copy / "best_model.pth").open("ab") as file:
        file.write(b"x")
    with pytest.raises(FileChangedError):
        plan_push(run_copy, REPO)


def test_an_adapter_alone_lies_at_the_top_so_that_peft_opens_it_by_name(
    hub: Hub, lora_run: Path, tiny_base: Path, tmp_path: Path
) -> None:
    push(plan_push(lora_run / "best_model_lora_adapter", REPO))
    names = {"README.md", "adapter_config.json", "adapter_model.safetensors", "labels.json"}
    assert set(hub.files[REPO]) == names
    for name, content in hub.files[REPO].items():
        (tmp_path / name).write_bytes(content)
    base = AutoModelForVideoClassification.from_pretrained(tiny_base)
    assert PeftModel.from_pretrained(base, str(tmp_path)).active_adapters == ["default"]


def test_a_public_repository_is_made_and_used_only_where_it_was_asked_for(
    hub: Hub, lora_run: Path
) -> None:
    hub.repos[REPO], hub.files[REPO] = False, {}
    with pytest.raises(PublicRepoError, match="everybody can read it; say that everybody may"):
        push(plan_push(lora_run, REPO))
    assert hub.files[REPO] == {}
    push(plan_push(lora_run, REPO, public=True))
    assert set(hub.files[REPO]) == SENT
    push(plan_push(lora_run, "anna/open", public=True))
    assert hub.repos["anna/open"] is False


@pytest.mark.parametrize(
    "name", ["gestures", "", "a/b/c", "/tmp/run", "anna/", "../b", "anna/x--y", "anna/..", "a b/c"]
)
def test_what_is_no_name_is_refused_before_anything_is_asked(
    name: str, hub: Hub, lora_run: Path
) -> None:
    with pytest.raises(RepoNameError, match="OWNER/NAME"):
        plan_push(lora_run, name)
    with pytest.raises(RepoNameError):
        plan_push(lora_run, REPO, datasets=[name])
    assert hub.asked == []


def test_what_is_no_run_is_refused(hub: Hub, tmp_path: Path, bundle: Path) -> None:
    for folder in (tmp_path, bundle):
        with pytest.raises(NotARunError, match="neither a RUN nor an adapter"):
            plan_push(folder, REPO)


def test_a_run_without_its_card_is_refused(hub: Hub, run_copy: Path) -> None:
    (run_copy / "README.md").unlink()
    with pytest.raises(FileMissingError, match="the model card"):
        plan_push(run_copy, REPO)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, HubLoginError),
        (403, HubRefusedError),
        (409, HubRefusedError),
        (503, HubUnreachableError),
    ],
)
def test_a_refusal_has_a_name(
    status: int, error: type[Exception], hub: Hub, lora_run: Path
) -> None:
    hub.refusal = status
    with pytest.raises(error):
        push(plan_push(lora_run, REPO))
    with pytest.raises(error):
        check_login()


def test_a_large_file_that_the_storage_refuses_has_a_name(hub: Hub, lora_run: Path) -> None:
    hub.storage_refusal = 403
    with pytest.raises(HubRefusedError, match="status 403"):
        push(plan_push(lora_run, REPO))
    assert hub.files[REPO] == {}


def test_without_a_token_nothing_is_asked(
    hub: Hub, lora_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubLoginError, match="hf auth login"):
        push(plan_push(lora_run, REPO))
    assert hub.asked == []


def test_a_hub_that_is_not_there_has_a_name(
    hub: Hub, lora_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(HubUnreachableError, match="can't be asked"):
        push(plan_push(lora_run, REPO))


def test_where_no_hub_may_be_asked_none_is(
    hub: Hub, lora_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE"):
        push(plan_push(lora_run, REPO))
    assert hub.asked == []


def test_the_command_by_itself_uploads_with_the_environment_of_the_hubs_library(
    hub: Hub, lora_run: Path, tmp_path: Path
) -> None:
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path),
    }  # fmt: skip
    finished = subprocess.run(
        [sys.executable, "-m", "lora_deploy", "push", str(lora_run), REPO],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == f"{hub.url}/{REPO}"
    assert set(hub.files[REPO]) == SENT


# With the training.


def train(few_clips: Path, tiny_base: Path, out: Path, *words: str) -> int:
    sets = ["training.epochs=1", "training.batch_size=4"]
    overrides = [word for one in sets for word in ("--set", one)]
    return cli.run(
        [
            "train", "--data", str(few_clips), "--out", str(out), "--base", str(tiny_base),
            *overrides, *words,
        ]
    )  # fmt: skip


def test_a_training_is_uploaded_when_it_is_done(
    hub: Hub, few_clips: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(few_clips, tiny_base, tmp_path / "run", "--push-to-hub", REPO) == 0
    assert hub.repos == {REPO: True}
    assert set(hub.files[REPO]) == SENT
    assert f"uploaded to {hub.url}/{REPO}" in capsys.readouterr().err


def test_who_is_not_logged_in_hears_it_before_the_training(
    hub: Hub, few_clips: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    hub.refusal = 401
    assert train(few_clips, tiny_base, tmp_path / "run", "--push-to-hub", REPO) == 2
    assert "HubLoginError" in capsys.readouterr().err
    hub.refusal = None
    assert train(few_clips, tiny_base, tmp_path / "run", "--push-to-hub", "no name") == 2
    assert "RepoNameError" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# The cards.


def front(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    values = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(values, dict)
    return values


def test_the_card_of_a_run_has_the_figures_that_were_measured(
    lora_run: Path, few_clips: Path
) -> None:
    card = (lora_run / "README.md").read_text()
    values = front(card)
    found = evaluate(load(lora_run), few_clips, split="val")
    assert values["license"] == "apache-2.0"
    assert values["library_name"] == "lora-deploy"
    assert values["pipeline_tag"] == "video-classification"
    assert "base_model" not in values  # a folder of this computer has no address at a hub
    name, results = model_index_to_eval_results(values["model-index"])
    figures = {(one.metric_type, one.metric_name): one.metric_value for one in results}
    assert figures == {
        ("accuracy", "Accuracy"): round(found.accuracy, 6),
        ("recall", "Mean class accuracy"): round(found.mean_class_accuracy, 6),
        ("f1", "Mean F1"): round(found.mean_f1, 6),
    }
    assert {one.dataset_split for one in results} == {"validation"}
    assert {one.metric_type for one in results} <= set(values["metrics"])
    assert name == "Action recogniser"
    assert f"On {found.clips} validation clips, which chose the epoch" in card
    recall = found.per_class["bend"]
    assert f"| bend | 4 | {found.classes['bend'].precision or 0:.3f} | {recall:.3f} |" in card


def test_the_card_of_an_adapter_is_for_peft_and_has_its_figure(lora_run: Path) -> None:
    values = front((lora_run / "best_model_lora_adapter" / "README.md").read_text())
    best = run.read_run_manifest(lora_run).best
    assert values["library_name"] == "peft"
    assert "lora" in values["tags"]
    [result] = model_index_to_eval_results(values["model-index"])[1]
    assert result.metric_value == round(best.val_accuracy, 6)


def test_no_card_says_where_the_base_lies_on_this_computer(lora_run: Path, tiny_base: Path) -> None:
    for name in ("README.md", "best_model_lora_adapter/README.md"):
        card = (lora_run / name).read_text()
        assert str(tiny_base.parent) not in card
        assert tiny_base.name in card


def test_a_base_of_a_hub_is_named_with_its_address_and_licence(lora_run: Path) -> None:
    settings = load_settings(lora_run / "config.yaml")
    card = cards.run_card(manifest_of(ACTIONS), settings, evaluation_of(ACTIONS, 100, 0.8))
    values = front(card)
    assert values["base_model"] == "MCG-NJU/videomae-base"
    assert values["license"] == "cc-by-nc-4.0"
    names = [one.metric_name for one in model_index_to_eval_results(values["model-index"])[1]]
    assert "Top-5 accuracy" in names
    assert front(cards.adapter_card(manifest_of(ACTIONS), settings))["base_model"]


def test_a_full_fine_tuning_has_a_card_without_lora(full_run: Path) -> None:
    card = (full_run / "README.md").read_text()
    assert "lora" not in front(card)["tags"]
    assert "best_model_lora_adapter" not in card
    assert "trained: the whole model" in card


@pytest.mark.parametrize(
    ("found", "values"),
    [
        ("mit", {"license": "mit"}),
        (None, {"license": "other", "license_name": "not stated by the base"}),
        ("Our own: ask us", {"license": "other", "license_name": "Our own: ask us"}),
    ],
)
def test_a_licence_without_an_id_is_called_other(found: str | None, values: dict[str, str]) -> None:
    base = BaseIdentity(id="x", revision=None, fingerprint="f", licence=found)
    assert licence(base) == values


def test_no_label_becomes_markup_or_a_line_of_the_head(lora_run: Path) -> None:
    strange = ["a|b", "[x](http://x.example)", "<img src=x>", "---\nlicense: mit", "c: d"]
    manifest = manifest_of(strange).model_copy(
        update={"base": BaseIdentity(id="x\n---\nlicense: mit", revision="1", fingerprint="f", licence="a: b\n---\nc")}
    )  # fmt: skip
    settings = load_settings(lora_run / "config.yaml")
    for card in (
        cards.run_card(manifest, settings, evaluation_of(strange, 40, 0.5)),
        cards.adapter_card(manifest, settings),
    ):
        assert front(card)["license"] == "other"
        body = card.split("---\n", 2)[2]
        assert "<img" not in body
        assert "](http" not in body.replace("\\]", "")
        assert "\n---\n" not in body
        rows = [line for line in body.splitlines() if line.startswith("| ") and "clips" not in line]
        assert all(line.replace("\\|", "").count("|") in (3, 6) for line in rows), rows


def test_data_sets_are_named_in_the_head_when_they_are_given(hub: Hub, lora_run: Path) -> None:
    push(plan_push(lora_run, REPO, datasets=["anna/clips", "bert/more"]))
    sent = hub.files[REPO]["README.md"].decode()
    own = (lora_run / "README.md").read_text()
    assert front(sent) == {**front(own), "datasets": ["anna/clips", "bert/more"]}
    assert sent.split("---\n", 2)[2] == own.split("---\n", 2)[2]
    with pytest.raises(ManifestError, match="no head"):
        with_datasets("# no head", ["a/b"])
    assert head({"a": 1}) == ["---", "a: 1", "---"]


def test_a_card_that_somebody_edited_is_sent_as_it_is(
    hub: Hub, lora_run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(lora_run, tmp_path / "run"))
    text = (copy / "README.md").read_text() + "\nMade with care.\n"
    (copy / "README.md").write_text(text)
    push(plan_push(copy, REPO))
    assert hub.files[REPO]["README.md"].decode() == text
