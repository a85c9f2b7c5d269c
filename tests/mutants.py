"""Small faults put into a copy of the package, one at a time: for each some test has to fail.

    make mutants                            # all of them
    python tests/mutants.py gigpo rewards   # those whose file, or tests, have one of these words in their names

A mutant is a text of a file that is replaced by another one, and the tests that are asked. Ends with 1 if one survives.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
KILLED, SURVIVED, BROKEN = "killed", "SURVIVED", "BROKEN"
#: what every mutant would otherwise import anew
HEAVY = ("numpy", "torch", "transformers.models.qwen3.modeling_qwen3", "tokenizers", "pytest", "pydantic")


class Mutant(NamedTuple):
    """One fault.

    Attributes:
        file: in ``agentgym/``, without ``.py``.
        before, after: the text that is replaced, once, and what it becomes.
        tests: files below ``tests/``, and after ``-k`` which of their tests.
    """

    file: str
    before: str
    after: str
    tests: str

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.before.split())} -> {' '.join(self.after.split())}"

    def source(self, root: Path = ROOT) -> str:
        """The file with the fault.

        Raises:
            ValueError: it does not hold the text exactly once.
        """
        text = (root / "agentgym" / f"{self.file}.py").read_text()
        if text.count(self.before) != 1:
            raise ValueError(f"{self}: the text stands there {text.count(self.before)} times; write the mutant anew")
        return text.replace(self.before, self.after)


def recipe(name: str, before: str, after: str) -> Mutant:
    """A wrong default or a swapped part of a recipe."""
    return Mutant(f"trainers/recipes/{name}", before, after, f"trainers/test_published.py -k {name}")


def part(file: str, before: str, after: str, tests: str) -> Mutant:
    """A fault in a part."""
    return Mutant(f"trainers/{file}", before, after, f"trainers/{tests}")


def stopped(file: str, before: str, after: str, algorithm: str = "gigpo") -> Mutant:
    """A fault that shows only where a run is stopped and goes on."""
    return part(file, before, after, f"test_resume.py -k stages and {algorithm}")


def stored(file: str, before: str, after: str, tests: str = "test_store_damage.py") -> Mutant:
    """A fault in what lies on disk."""
    return Mutant(f"store/{file}", before, after, f"core/{tests}")


PUBLISHED = "test_published.py -k gradient"
REFUSED = "test_resume_refused.py -k"
HERE = "len(self._outlook._updates) + 1"  # updates of this process alone: what a counter knows that nobody keeps
MUTANTS = [
    # wrong defaults and swapped parts
    recipe("grpo", "= 0.2", "= 0.3"),
    recipe("grpo", "import seq_mean_token_mean", "import token_mean as seq_mean_token_mean"),
    recipe("grpo", "standardize())", "standardize(scale=False))"),
    recipe("dr_grpo", "standardize(scale=False)", "standardize()"),
    recipe("dr_grpo", "= 512", "= 1024"),
    recipe("rloo", "chain(outcome(), leave_one_out())", "chain(outcome(), leave_one_out(count='turn'))"),
    recipe("rloo", "one(), absolute()", "None, absolute()"),
    recipe("rloo", "import seq_mean_token_sum", "import seq_mean_token_mean as seq_mean_token_sum"),
    recipe("reinforce_pp", 'whiten("token")', "whiten()"),
    recipe("reinforce_pp", '"batch", "group"] = "batch"', '"batch", "group"] = "group"'),
    recipe("reinforce_pp", "standardize(scale=False)", "standardize()"),
    recipe("ppo", "= 0.95", "= 1.0"),
    recipe("ppo", "value_weight: Annotated[float, Field(gt=0)] = 0.5", "value_weight: float = 1.0"),
    recipe("ppo", "value_clip: Annotated[float, Field(gt=0)] | None = 0.5", "value_clip: float | None = None"),
    recipe("ppo", "whiten: bool = True", "whiten: bool = False"),
    recipe("ppo", "critic=advantage", 'critic=chain(advantage, whitened("token"))'),
    recipe("dapo", "= 0.28", "= 0.2"),
    recipe("dapo", "select=with_spread(rollouts),\n", ""),
    recipe("dapo", "limit // 5", "limit // 4"),
    recipe("dapo", "min_clip()", "min_clip(3.0)"),
    recipe("gspo", "= 4e-4", "= 3e-4"),
    recipe("gspo", 'Literal["episode", "turn"] = "episode"', 'Literal["episode", "turn"] = "turn"'),
    recipe("cispo", "= 5.0", "= 2.0"),
    recipe("cispo", "stop_gradient_clip())", "min_clip())"),
    recipe("gigpo", "= 0.95", "= 1.0"),
    recipe("gigpo", "scale: bool = False", "scale: bool = True"),
    recipe("gigpo", "scale if scale_episode is None", "True if scale_episode is None"),
    recipe("gigpo", "min_clip(dual=3.0)", "min_clip()"),
    recipe("gigpo", "before, after = (invalid, ()) if released else ((), invalid)", "before, after = invalid, ()"),
    recipe("igpo", '"none"] = "separate"', '"none"] = "joint"'),
    recipe("igpo", '"unbiased"] = "population"', '"unbiased"] = "unbiased"'),
    recipe("igpo", '"rescaled"] = "sum"', '"rescaled"] = "mean"'),
    recipe("igpo", '"first"] = "best"', '"first"] = "first"'),
    recipe("otc", "= 4.0", "= 3.0"),
    recipe("otc", '"none"] = "group"', '"none"] = "task"'),
    recipe("aspo", "= -2.0", "= -2.5"),
    recipe("aspo", "standardize(), early_call(delta, limit))", "early_call(delta, limit), standardize())"),
    recipe("c_grpo", "= 0.3", "= 0.5"),
    recipe("c_grpo", "relative: bool = True", "relative: bool = False"),
    recipe("c_grpo", '"cited"] = "shown"', '"cited"] = "cited"'),
    recipe("tapo", "score: float = -1.0", "score: float = 0.0"),
    recipe("tapo", ", cap=None", ""),
    recipe("tapo", ', of="success"', ""),
    recipe("tapo", "= 10.0", "= 3.0"),
    recipe("eapo", 'count="turn"', 'count="episode"'),
    recipe("eapo", 'sequence="turn"', 'sequence="episode"'),
    recipe("search_r1", "= 0.001", "= 0.0"),
    recipe("search_r1", "gae(1.0, 1.0)", "gae(1.0, 0.95)"),
    recipe("arpo", '"node_values"] = "soft"', '"node_values"] = "hard"'),
    recipe("arpo", "beta: float = 0.2", "beta: float = 0.4"),
    recipe("arpo", 'in ("hard_unit", "node_values")', 'in ("hard_unit",)'),
    recipe("aepo_agentic", "gradient_preserving_clip()", "min_clip()"),
    recipe("aepo_agentic", "entropy_weight: Annotated[float, Field(ge=0)] = 0.2", "entropy_weight: float = 0.1"),
    recipe("aepo_agentic", "allocation: float | None = 0.5", "allocation: float | None = None"),
    recipe("spo_chain", "= 0.9", "= 1.0"),
    recipe("spo_chain", "drop_zero(), ", ""),
    recipe("spo_tree", "once(), ", ""),
    recipe("spo_tree", '"leaves"] = "children"', '"leaves"] = "leaves"'),
    recipe("polychromic", ', to="old"', ""),
    recipe("polychromic", "weights=(own(),),\n", ""),
    recipe("polychromic", "window: PositiveInt = 5", "window: PositiveInt = 10"),
    # parts
    part("learner", "_pass(scorer, rows, self.how.temperature)", "_pass(scorer, rows, 1.0)", f"{PUBLISHED} and kl"),
    part("learner", "self._pass(scorer, asked, 1.0)[0]", "self._pass(scorer, asked, 0.7)[0]", f"{PUBLISHED} and igpo"),
    part("config", "return self.lr * (1 -", "return self.lr * (1 - 0 *", "test_train.py -k learning_rate"),
    part("config", "self.updates - 1)", "self.updates)", "test_train.py -k learning_rate"),
    part("imitation", "(1 - step / steps)", "1.0", "test_demonstrations.py -k learning_rate"),
    part(
        "branches", " & (turns.turn[order] >= fork[episode])", "", "test_branches.py -k inherited",
    ),
    part(
        "rewards", "turns.column(column)[turns.last]", "turns.column(column)[turns.first]", f"{PUBLISHED} and c_grpo",
    ),
    part("branches", "np.clip(reward[members], 0.0, 1.0)", "reward[members]", f"{PUBLISHED} and polychromic"),
    part("branches", "len(members) <= size", "len(members) < size", f"{PUBLISHED} and polychromic"),
    part("branches", "turns.turn < at + window", "turns.turn <= at + window", f"{PUBLISHED} and polychromic"),
    part("branches", "if t > at)", "if t >= at)", f"{PUBLISHED} and polychromic"),
    part("branches", "& (turns.turn >= at)", "& (turns.turn > at)", f"{PUBLISHED} and polychromic"),
    part("credit", "    ddof: int = 1,\n    eps: float = 1e-6", "    ddof: int = 0,\n    eps: float = 1e-6", PUBLISHED),
    part("credit", "eps: float = 1e-6,\n    *,", "eps: float = 1e-4,\n    *,", PUBLISHED),
    part("credit", '= "zero",', '= "keep",', PUBLISHED),
    part("credit", "discount * trace", "trace", "test_credit.py"),
    part("credit", "turns.bootstrap[turns.last], 0.0", "0.0, 0.0", f"{PUBLISHED} and ppo"),
    part("surrogate", "loss.minimum(gain * dual).where(tokens.advantage < 0, loss)", "loss", f"{PUBLISHED} and gigpo"),
    part("surrogate", "(gain * ratio).maximum", "(gain * ratio).minimum", f"{PUBLISHED} and grpo"),
    part("surrogate", "tokens.advantage > 0) & (same", "tokens.advantage < 0) & (same", f"{PUBLISHED} and aepo"),
    part("penalties", "= tokens.log_ratio if to", "= -tokens.log_ratio if to", f"{PUBLISHED} and polychromic"),
    part("weights", "tokens.old < math.log(below)", "tokens.old < 0", f"{PUBLISHED} and spo"),
    part("calls", "turns.success[turns.first]", "np.ones(turns.episodes.total, bool)", f"{PUBLISHED} and aspo"),
    part("calls", "clip(bias, -bound, bound)", "clip(bias, -9.0, 9.0)", f"{PUBLISHED} and aspo"),
    part("rewards", "np.clip(over, 0.0, cap)", "np.clip(over, -9.0, cap)", f"{PUBLISHED} and dapo"),
    part("rewards", "| ~turns.terminated[turns.first]", "", f"{PUBLISHED} and tapo"),
    part("turns", "if c.error is None", "if c.name", "test_tool_recipes.py -k no_use"),
    part("learner", "coefficient * len(parts)", "coefficient", PUBLISHED),
    part("learner", "{\"weight\": weight[index]}", "{\"weight\": weight[index] * 0 + 1}", f"{PUBLISHED} and gspo"),
    part("beliefs", "if last and episode.terminated", "if last", f"{PUBLISHED} and igpo"),
    part("information", "credit[turns.last] +=", "credit[turns.last] =", f"{PUBLISHED} and igpo"),
    part("optim", "lr * group.get(_RATIO, 1.0)", "lr", "test_learner.py -k critic_has"),
    part("branching_rules", "!= 1 or group.group.size == 1", "!= 0", "test_branching.py -k one_root"),
    part("sampling", '"solved" if', '"success" if', "test_sampling.py"),
    Mutant("records", "else self.terminated and self.reward > 0", "else self.reward > 0", "trainers/test_turns.py"),
    Mutant("rollout/engine", "reply.stop, final=episode.observation", "reply.stop", "core/test_rollout.py -k stop"),
    # what a run that is stopped needs to go on as if it had not been
    stopped("train", 'list(state["recent"])', "[]"),
    stopped("train", 'self.branching.load_state_dict(state["branching"])', "pass", "arpo"),
    stopped("train", 'learner.load_state_dict(state["learner"])', "pass"),
    stopped("train", "policy.version = update", "pass"),
    stopped("train", "if self.update == 0:", "if not begun:"),
    stopped("train", "if self.update == 0:", "if self.update == 0 or begun:"),
    stopped("train", "at=written", "at=None"),
    stopped("train", "lines.cut(sizes.get(lines.path.name, 0))", "pass"),
    stopped("train", "self.timings, self.forks\n", "self.timings\n", "arpo"),
    stopped("train", "writer.flush(),", "writer.position,"),
    stopped("train", "learning_rate(self.update)", f"learning_rate({HERE})"),
    stopped("train", "sampling(key, self.update,", f"sampling(key, {HERE},"),
    stopped("train", '"eval", self.update)', f'"eval", {HERE})'),
    stopped("train", "engine.temperature = trained\n", "\n"),
    stopped("train", "last = self.update", "self._save(learner, policy, writer); last = self.update"),
    part("train", "if last or (self.config", "if (self.config", "test_train.py -k promises"),
    stopped("model", "context, request.key,", "context, request.key + self.engine.generated,"),
    stopped("learner", 'self.optimizer.load_state_dict(state["optimizer"])', "pass"),
    stopped("learner", 'self.updates = state["updates"]', "pass"),
    stopped("learner", 'self.values.load_state_dict(state["values"])', "pass", "ppo"),
    stopped("learner", 'self.reference.model.load_state_dict(state["reference"], strict=False)', "pass"),
    stopped("learner", 'self.algorithm.load_state_dict(state["parts"])', "pass", "otc"),
    stopped("optim", "zip(self._all, states, strict=True)", "zip(self._all[:1], states)", "ppo"),
    stopped("optim", "zip(self._all, states, strict=True)", "zip(self._all[1:], states[1:])", "ppo"),
    stopped("algorithm", "part.state.update(saved)", "pass", "otc"),
    part("rewards", "Part(apply, needs, state=remembered)", "Part(apply, needs)", "test_tool_recipes.py -k remember"),
    stopped("branching_rules", 'OrderedDict(state["seen"])', "OrderedDict()", "arpo"),
    stopped("branching_rules", 'OrderedDict(state["seen"])', 'OrderedDict(sorted(state["seen"].items()))', "arpo"),
    stopped("branching_rules", 'dict(state["late"])', "{}", "arpo"),
    stopped("branching_rules", 'state["usual"], state["asked"]', '0.0, state["asked"]', "arpo"),
    stopped("branching_rules", 'state["usual"], state["asked"]', 'state["usual"], 0', "arpo"),
    part("checkpoint", "compute_in(model, precision)", "pass", "test_precision.py -k continues and full"),
    part("lora", "state_dict=learned_state(model)", "state_dict=None", "test_precision.py -k continues and full"),
    part("memory", "return tree.clone()", "return tree", "test_memory.py -k state"),
    part("memory", "tensor.data = tensor.data.clone()", "pass", "test_resume.py -k loaded and ppo"),
    part("lora", "sorted(config.target_modules)", "list(config.target_modules)", "test_lora_checkpoints.py -k equal"),
    part("lora", "is_trainable=True", "is_trainable=False", "test_resume.py -k lora_trains"),
    part("train", "if not begun:\n", "if False:\n", f"{REFUSED} through"),
    part("train", "if kept:", "if False:", f"{REFUSED} history"),
    part("train", "torch.set_num_threads(config.threads)", "pass", f"{REFUSED} threads"),
    part("train", "config.threads or torch.get_num_threads()", "config.threads", f"{REFUSED} threads"),
    part("train", "draws.key(key, self.update))", f"draws.key(key, {HERE}))", "test_training_budgets.py -k resumed"),
    part("recorded", '{"updates", ', '{"updates", "seed", ', f"{REFUSED} run_file"),
    part("recorded", "if before != fingerprint:", "if False:", f"{REFUSED} world"),
    part("recorded", "if before == now:", "if True:", f"{REFUSED} versions"),
    stored("checkpoints", "list(found.items())[-1]", "list(found.items())[0]"),
    stored("checkpoints", "shutil.rmtree(temporary, ignore_errors=True)\n        try:", "try:"),
    stored("checkpoints", "            _remove(final)\n", ""),
    stored("checkpoints", "temporary.rename(final)\n", "shutil.copytree(temporary, final)\n"),
    stored("checkpoints", "_digest(file) != match[1]", "not file.stat().st_size"),
    stored("checkpoints", "path.rename(hidden)", "hidden = path"),
    stored("checkpoints", "[:-keep]", "[:-keep - 1]"),
    stored("files", "if there < size:", "if False:", "test_store.py -k json_lines"),
    stored("files", "                self._end_with_a_line()", "                pass", "test_store.py -k json_lines"),
    stored("episodes", "return ends[-1] if at is None else at", "return ends[-1]", "test_store.py -k resumed"),
    stored("episodes", "            self._put_aside(damage)", "            pass"),
    stored("episodes", "self.position += len(frame)", "self.position = len(frame)", "test_store.py"),
]  # fmt: skip


def run(mutant: Mutant, copy: Path) -> str:
    """Put the fault into the copy, ask its tests, take it out again."""
    file = copy / "agentgym" / f"{mutant.file}.py"
    whole = file.read_text()
    file.write_text(mutant.source(copy))
    code = asked(mutant.tests, copy)
    file.write_text(whole)
    return {0: SURVIVED, 1: KILLED}.get(code, BROKEN)


def asked(tests: str, copy: Path) -> int:
    """Exit status of pytest, in a process of its own that has the heavy packages already."""
    child = os.fork()
    if not child:
        code = 3
        try:
            code = _pytest(tests, copy)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _pytest(tests: str, copy: Path) -> int:
    import pytest

    os.chdir(copy)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(copy))
    where, _, words = tests.partition(" -k ")
    quiet = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    with open(copy / "log.txt", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        return int(pytest.main([f"tests/{where}", *quiet, *(["-k", words] if words else [])]))


def together(mutants: list[Mutant]) -> list[str]:
    """All tests that are asked, once for each file."""
    words: dict[str, list[str]] = {}
    for mutant in mutants:
        where, _, chosen = mutant.tests.partition(" -k ")
        words.setdefault(where, []).append(f"({chosen})" if chosen else "")
    return [where if "" in ks else f"{where} -k {' or '.join(dict.fromkeys(ks))}" for where, ks in words.items()]


def main(words: list[str]) -> int:
    chosen = [m for m in MUTANTS if not words or any(w in m.file or w in m.tests for w in words)]
    for name in HEAVY:
        importlib.import_module(name)
    found: dict[str, list[Mutant]] = {KILLED: [], SURVIVED: [], BROKEN: []}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("agentgym", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for tests in together(chosen):
            if asked(tests, copy):
                print((copy / "log.txt").read_text()[-2000:])
                print(f"these tests fail without any fault: {tests}")
                return 1
        for mutant in chosen:
            began = time.monotonic()
            outcome = run(mutant, copy)
            found[outcome].append(mutant)
            print(f"{outcome:8}  {time.monotonic() - began:4.0f} s  {mutant}", flush=True)
            if outcome == BROKEN:
                print((copy / "log.txt").read_text()[-400:])
    print(", ".join(f"{len(mutants)} {outcome}" for outcome, mutants in found.items()))
    return int(len(found[KILLED]) < len(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
