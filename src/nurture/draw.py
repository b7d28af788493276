"""What a stage learns from where a model answers first (`draw` of a source): ReST, rejection sampling, online DPO.

drawn/KEY.jsonl   every answer with its score; a later stage that asks for the same ones reads them here
drawn-I.jsonl     what source I of the stage learns from, chosen among them
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from . import recipe as recipes
from .core.random import stream_key
from .data.template import Template
from .errors import InputError
from .evaluate.answers import open_to_talk
from .evaluate.ready import make_ready
from .files import digest_of, replace_synced
from .models.layouts import choose_layout
from .models.load import model_digest, resolve_model
from .protocols import Answer, Outcome, Sampling
from .recipe import Draw, Source, Stage
from .records import Task
from .rewards import score_all
from .rewards.model import models_in
from .rollout.drawn import Drawer, chosen, draw_to, is_complete, read_drawn
from .rollout.loop import Prompt, single_turn
from .setup import read_source
from .train.heartbeat import heartbeat
from .train.precision import deterministic
from .train.processes import Processes


@dataclass(frozen=True)
class Drawing:
    """The drawing for one stage, in its run folder `out`. `stages` maps finished stages to their models."""

    stage: Stage
    out: Path
    stages: Mapping[str, Path]
    processes: Processes
    say: Callable[[str], None] = lambda text: None

    def sources(self) -> dict[int, Path]:
        """For each source that asks for it, by its place, the rows to learn from: drawn now, or found."""
        return {i: self._source(i, source, source.draw) for i, source in enumerate(self.stage.data) if source.draw}

    def _source(self, place: int, source: Source, draw: Draw) -> Path:
        drawn = self._answers(source, draw)
        data = self.out / f"drawn-{place}.jsonl"
        if self.processes.rank == 0:
            rows = chosen(read_drawn(drawn), draw)
            replace_synced(data, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
            self.say(f"{len(rows):,} rows to learn from (keep: {draw.keep}) are in {data}.")
        self.processes.barrier()
        return data

    def _answers(self, source: Source, draw: Draw) -> Path:
        """The file of all answers, here or in the folder of an earlier stage."""
        from .rollout.sampler import LocalSampler

        stage, reward = self.stage, draw.reward
        assert reward is not None, "a source with draw has a reward"
        deterministic()
        records, report, _ = read_source(source, ("task",), stage.on_bad_row)
        tasks = [record for record in records if isinstance(record, Task)][: draw.tasks]
        loaded, template = open_to_talk(
            draw.model, self.stages, device=stage.device, precision=stage.precision, seed=stage.seed
        )
        tokenizer = loaded.tokenizer
        prompts = _prompts(tasks, template, draw, loaded.model)
        make_ready(reward, template, stages=self.stages, device=stage.device, precision=stage.precision)

        facts = {
            "model": loaded.digest,
            "tasks": report.sha256,
            "reward": reward.model_dump(mode="json"),
            "judges": [self._digest(name) for name in models_in(reward)],
            "settings": [
                len(tasks),
                draw.n,
                draw.temperature,
                draw.max_completion_length,
                stage.seed,
                str(loaded.model.dtype),
            ],
        }
        folders = [self.out, *(model.parent for model in self.stages.values())]
        paths = [folder / "drawn" / f"{digest_of(facts)[:16]}.jsonl" for folder in folders]
        for path in paths:
            if is_complete(path, facts, len(prompts)):
                return path
        if self.processes.rank == 0:  # from here on this is a run
            replace_synced(self.out / "config.yaml", recipes.to_yaml(stage).encode())
        self.say(f"{draw.model} answers {len(prompts):,} tasks of {source.path}, {draw.n} times each.")
        loaded.model.eval()
        layout = choose_layout(loaded.model, max(len(p.ids) for p in prompts) + draw.max_completion_length).layout
        sampling = Sampling(
            max_tokens=draw.max_completion_length, temperature=draw.temperature, stop_ids=template.stop_ids,
            seed=stream_key(stage.seed, "draw") >> 1,
        )  # fmt: skip

        def judge(answers: Sequence[Answer]) -> list[Outcome]:
            return score_all(reward, answers, stage.deadline, stage.stop_limit, lambda: heartbeat("reward", 0))

        drawer = Drawer(
            single_turn(LocalSampler(loaded.model, layout=layout), lambda: heartbeat("draw", 0)),
            judge, lambda ids: str(tokenizer.decode(list(ids))), draw.n, sampling,
        )  # fmt: skip
        draw_to(paths[0], facts, prompts, drawer, self.processes, self.say)
        return paths[0]

    def _digest(self, name: str) -> str:
        where = resolve_model(name, self.stages)
        return model_digest(where) if isinstance(where, Path) else where


def _prompts(tasks: Sequence[Task], template: Template, draw: Draw, model: PreTrainedModel) -> list[Prompt]:
    """The tasks that leave room for an answer."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048
    found = [Prompt(t, template.encode_prompt(t.prompt), t.origin or str(i)) for i, t in enumerate(tasks)]
    fitting = [p for p in found if len(p.ids) + draw.max_completion_length <= context]
    if not fitting:
        raise InputError(
            f"data: draw.max_completion_length: {draw.max_completion_length} leaves no room for any prompt in the "
            f"{context} positions of {draw.model}."
        )
    return fitting
