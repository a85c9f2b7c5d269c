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
PUBLISHED = "algorithms/test_published.py -k gradient"
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


def method(name: str, before: str, after: str) -> Mutant:
    """A wrong default or a swapped part of an algorithm."""
    (file,) = (ROOT / "agentgym" / "trainers" / "algorithms").glob(f"*/{name}.py")
    where = file.relative_to(ROOT / "agentgym").with_suffix("").as_posix()
    return Mutant(where, before, after, f"trainers/{PUBLISHED.partition(' -k ')[0]} -k {name}")


def part(file: str, before: str, after: str, tests: str) -> Mutant:
    """A fault in a part."""
    return Mutant(f"trainers/{file}", before, after, f"trainers/{tests}")


def stopped(file: str, before: str, after: str, algorithm: str = "gigpo") -> Mutant:
    """A fault that shows only where a run is stopped and goes on."""
    return part(file, before, after, f"run/test_resume.py -k stages and {algorithm}")


def stored(file: str, before: str, after: str, tests: str = "test_store_damage.py") -> Mutant:
    """A fault in what lies on disk."""
    return Mutant(f"store/{file}", before, after, f"core/{tests}")


REFUSED = "run/test_resume_refused.py -k"
HERE = "len(self._outlook._updates) + 1"  # updates of this process alone: what a counter knows that nobody keeps
MUTANTS = [
    # wrong defaults and swapped parts
    method("grpo", "= 0.2", "= 0.3"),
    method("grpo", "import seq_mean_token_mean", "import token_mean as seq_mean_token_mean"),
    method("grpo", "standardize())", "standardize(scale=False))"),
    method("dr_grpo", "standardize(scale=False)", "standardize()"),
    method("dr_grpo", "= 512", "= 1024"),
    method("rloo", "chain(episode_return(), leave_one_out())", "chain(episode_return(), leave_one_out(count='turn'))"),
    method("rloo", "reinforce_ratio(), ratio_bounds()", "None, ratio_bounds()"),
    method("rloo", "import seq_mean_token_sum", "import seq_mean_token_mean as seq_mean_token_sum"),
    method("reinforce_pp", 'whiten("token")', "whiten()"),
    method("reinforce_pp", '"batch", "group"] = "batch"', '"batch", "group"] = "group"'),
    method("reinforce_pp", "standardize(scale=False)", "standardize()"),
    method("ppo", "= 0.95", "= 1.0"),
    method("ppo", "value_weight: Annotated[float, Field(gt=0)] = 0.5", "value_weight: float = 1.0"),
    method("ppo", "value_clip: Annotated[float, Field(gt=0)] | None = 0.5", "value_clip: float | None = None"),
    method("ppo", "whiten: bool = True", "whiten: bool = False"),
    method("ppo", "critic=advantage", 'critic=chain(advantage, whitened("token"))'),
    method("dapo", "= 0.28", "= 0.2"),
    method("dapo", "selection=nonzero_variance(rollouts),\n", ""),
    method("dapo", "limit // 5", "limit // 4"),
    method("dapo", "min_clip()", "min_clip(3.0)"),
    method("gspo", "= 4e-4", "= 3e-4"),
    method("gspo", 'Literal["episode", "turn"] = "episode"', 'Literal["episode", "turn"] = "turn"'),
    method("cispo", "= 5.0", "= 2.0"),
    method("cispo", "stop_gradient_clip())", "min_clip())"),
    method("gigpo", "= 0.95", "= 1.0"),
    method("gigpo", "scale: bool = False", "scale: bool = True"),
    method("gigpo", "scale if scale_episode is None", "True if scale_episode is None"),
    method("gigpo", "min_clip(dual=3.0)", "min_clip()"),
    method(
        "gigpo",
        "before, after = (invalid, ()) if match_released_code else ((), invalid)",
        "before, after = invalid, ()",
    ),
    method("igpo", '"none"] = "separate"', '"none"] = "joint"'),
    method("igpo", '"unbiased"] = "population"', '"unbiased"] = "unbiased"'),
    method("igpo", '"rescaled"] = "sum"', '"rescaled"] = "mean"'),
    method("igpo", '"first"] = "best"', '"first"] = "first"'),
    method("otc", "= 4.0", "= 3.0"),
    method("otc", '"none"] = "group"', '"none"] = "task"'),
    method("aspo", "= -2.0", "= -2.5"),
    method("aspo", "standardize(), early_call(delta, limit))", "early_call(delta, limit), standardize())"),
    method("c_grpo", "= 0.3", "= 0.5"),
    method("c_grpo", "relative: bool = True", "relative: bool = False"),
    method("c_grpo", '"cited"] = "shown"', '"cited"] = "cited"'),
    method("tapo", "score: float = -1.0", "score: float = 0.0"),
    method("tapo", ", cap=None", ""),
    method("tapo", ', of="success"', ""),
    method("tapo", "= 10.0", "= 3.0"),
    method("eapo", 'count="turn"', 'count="episode"'),
    method("eapo", 'sequence="turn"', 'sequence="episode"'),
    method("search_r1", "= 0.001", "= 0.0"),
    method("search_r1", "gae(1.0, 1.0)", "gae(1.0, 0.95)"),
    method("arpo", '"node_values"] = "soft"', '"node_values"] = "hard"'),
    method("arpo", "beta: float = 0.2", "beta: float = 0.4"),
    method("arpo", 'in ("hard_unit", "node_values")', 'in ("hard_unit",)'),
    method("aepo_agentic", "gradient_preserving_clip()", "min_clip()"),
    method("aepo_agentic", "entropy_weight: Annotated[float, Field(ge=0)] = 0.2", "entropy_weight: float = 0.1"),
    method("aepo_agentic", "allocation: float | None = 0.5", "allocation: float | None = None"),
    method("spo_chain", "= 0.9", "= 1.0"),
    method("spo_chain", "turn_weight=(drop_zero(),)", "turn_weight=()"),
    method("spo_tree", "inverse_copy_weight(), ", ""),
    method("spo_tree", '"leaves"] = "children"', '"leaves"] = "leaves"'),
    method("polychromic", ', to="old"', ""),
    method("polychromic", "turn_weight=(after_fork_mask(),),\n", ""),
    method("polychromic", "window: PositiveInt = 5", "window: PositiveInt = 10"),
    # parts
    part(
        "update/learner",
        "_pass(scorer, rows, self.config.temperature)",
        "_pass(scorer, rows, 1.0)",
        f"{PUBLISHED} and kl",
    ),
    part(
        "update/learner",
        "self._pass(scorer, asked, 1.0)[0]",
        "self._pass(scorer, asked, 0.7)[0]",
        f"{PUBLISHED} and igpo",
    ),
    part(
        "run/config", "return options.lr * (1 -", "return options.lr * (1 - 0 *", "run/test_trainer.py -k learning_rate"
    ),
    part("run/config", "self.run.updates - 1)", "self.run.updates)", "run/test_trainer.py -k learning_rate"),
    part("sft/imitation", "(1 - step / steps)", "1.0", "sft/test_demonstrations.py -k learning_rate"),
    part(
        "advantage/branches",
        " & (turns.turn[order] >= fork[episode])",
        "",
        "advantage/test_branches.py -k inherited",
    ),
    part(
        "rewards/rubrics",
        "turns.column(column)[turns.last]",
        "turns.column(column)[turns.first]",
        f"{PUBLISHED} and c_grpo",
    ),
    part("advantage/branches", "np.clip(reward[members], 0.0, 1.0)", "reward[members]", f"{PUBLISHED} and polychromic"),
    part("advantage/branches", "len(members) <= size", "len(members) < size", f"{PUBLISHED} and polychromic"),
    part("advantage/branches", "turns.turn < at + window", "turns.turn <= at + window", f"{PUBLISHED} and polychromic"),
    part("advantage/branches", "if t > at)", "if t >= at)", f"{PUBLISHED} and polychromic"),
    part("advantage/branches", "& (turns.turn >= at)", "& (turns.turn > at)", f"{PUBLISHED} and polychromic"),
    part(
        "advantage/baselines",
        "    ddof: int = 1,\n    eps: float = 1e-6",
        "    ddof: int = 0,\n    eps: float = 1e-6",
        PUBLISHED,
    ),
    part("advantage/baselines", "eps: float = 1e-6,\n    *,", "eps: float = 1e-4,\n    *,", PUBLISHED),
    part("advantage/baselines", '= "zero",', '= "keep",', PUBLISHED),
    part("advantage/critic", "discount * gae_lambda", "gae_lambda", "advantage/test_advantage_parts.py"),
    part("advantage/critic", "turns.bootstrap[turns.last], 0.0", "0.0, 0.0", f"{PUBLISHED} and ppo"),
    part(
        "loss/surrogate",
        "loss.minimum(gain * dual).where(tokens.advantage < 0, loss)",
        "loss",
        f"{PUBLISHED} and gigpo",
    ),
    part("loss/surrogate", "(gain * ratio).maximum", "(gain * ratio).minimum", f"{PUBLISHED} and grpo"),
    part("loss/surrogate", "tokens.advantage > 0) & (same", "tokens.advantage < 0) & (same", f"{PUBLISHED} and aepo"),
    part("loss/penalties", "= tokens.log_ratio if to", "= -tokens.log_ratio if to", f"{PUBLISHED} and polychromic"),
    part("loss/token_weights", "tokens.old < math.log(below)", "tokens.old < 0", f"{PUBLISHED} and spo"),
    part(
        "advantage/tool_calls",
        "turns.success[turns.first]",
        "np.ones(turns.episodes.total, bool)",
        f"{PUBLISHED} and aspo",
    ),
    part("advantage/tool_calls", "clip(bias, -bound, bound)", "clip(bias, -9.0, 9.0)", f"{PUBLISHED} and aspo"),
    part("rewards/shaping", "np.clip(over, 0.0, cap)", "np.clip(over, -9.0, cap)", f"{PUBLISHED} and dapo"),
    part("rewards/shaping", "| ~turns.terminated[turns.first]", "", f"{PUBLISHED} and tapo"),
    part("advantage/turn_table", "if c.error is None", "if c.name", "algorithms/test_tool_use.py -k no_use"),
    part("update/learner", "coefficient * len(minibatches)", "coefficient", PUBLISHED),
    part("update/learner", '{"weight": weight[index]}', '{"weight": weight[index] * 0 + 1}', f"{PUBLISHED} and gspo"),
    part("update/answer_probe", "if last and episode.terminated", "if last", f"{PUBLISHED} and igpo"),
    part("advantage/information_gain", "credit[turns.last] +=", "credit[turns.last] =", f"{PUBLISHED} and igpo"),
    part("update/optimizer", "lr * group.get(_RATIO, 1.0)", "lr", "update/test_learner.py -k critic_has"),
    part("sampling/branching_rules", "!= 1 or group.group.size == 1", "!= 0", "sampling/test_branching.py -k one_root"),
    part("sampling/selection", '"solved" if', '"success" if', "sampling/test_sampling.py"),
    # how parts are declared, found and checked
    part("parts", "if isinstance(part, Part) and part.stage != self.name:", "if False:", "test_parts.py -k refuse"),
    part("parts", "told.stage or self.name", "self.name", "test_parts.py -k joins_reward"),
    part("parts", "yield from part.walk()", "yield part", "test_parts.py -k state"),
    part("parts", "self.own_needs.union(*(", "self.own_needs.union(*(0 and ", "test_parts.py -k needs"),
    part("parts", "        point.load()", "        pass", "test_parts.py -k entry_points"),
    part("arguments", "strict: bool = True)", "strict: bool = False)", "test_parts.py -k arguments"),
    part(
        "parts",
        "if known is not None and known.__module__ != factory.__module__:",
        "if False:",
        "test_parts.py -k two_modules",
    ),
    part("advantage/combine", 'if stages == {"reward"}', 'if "reward" in stages', "test_parts.py -k joins_reward"),
    part("advantage/turn_weights", 'turn_weight.require(part, "product()")', "pass", "test_parts.py -k inside_another"),
    part("advantage/baselines", 'turn_key.require(by, "by")', "pass", "test_parts.py -k inside_another"),
    part(
        "expressions",
        "self.stage.several and isinstance(tree, ast.Tuple)",
        "isinstance(tree, ast.Tuple)",
        "test_parts.py -k several_parts",
    ),
    Mutant(
        "records",
        "else self.terminated and self.reward > 0",
        "else self.reward > 0",
        "trainers/advantage/test_turn_table.py",
    ),
    Mutant("rollout/engine", "reply.stop, final=episode.observation", "reply.stop", "core/test_rollout.py -k stop"),
    # what a run that is stopped needs to go on as if it had not been
    stopped("run/trainer", 'list(state["recent"])', "[]"),
    stopped("run/trainer", 'self.branching.load_state_dict(state["branching"])', "pass", "arpo"),
    stopped("run/trainer", 'learner.load_state_dict(state["learner"])', "pass"),
    stopped("run/trainer", "policy.version = update", "pass"),
    stopped("run/trainer", "if self.update == 0:", "if not resumed:"),
    stopped("run/trainer", "if self.update == 0:", "if self.update == 0 or resumed:"),
    stopped("run/trainer", "at=written", "at=None"),
    stopped("run/trainer", "lines.cut(sizes.get(lines.path.name, 0))", "pass"),
    stopped("run/trainer", "self.timings, self.branches\n", "self.timings\n", "arpo"),
    stopped("run/trainer", "writer.flush(),", "writer.position,"),
    stopped("run/trainer", "learning_rate(self.update)", f"learning_rate({HERE})"),
    stopped("run/trainer", "sampler(key, self.update,", f"sampler(key, {HERE},"),
    stopped("run/trainer", '"eval", self.update)', f'"eval", {HERE})'),
    stopped("run/trainer", "Sampling(temperature=options.temperature)", "Sampling()"),
    stopped("run/trainer", "last = self.update", "self._save(learner, policy, writer); last = self.update"),
    part("run/trainer", "if last or (self.config.eval", "if (self.config.eval", "run/test_trainer.py -k promises"),
    Mutant(
        "models/local_policy",
        "context, request.key,",
        "context, request.key + self.engine.generated,",
        "trainers/run/test_resume.py -k stages and gigpo",
    ),
    stopped("update/learner", 'self.optimizer.load_state_dict(state["optimizer"])', "pass"),
    stopped("update/learner", 'self.updates = state["updates"]', "pass"),
    stopped("update/learner", 'self.values.load_state_dict(state["values"])', "pass", "ppo"),
    stopped("update/learner", 'self.reference.load_state_dict(state["reference"])', "pass"),
    stopped("update/learner", 'self.algorithm.load_state_dict(state["parts"])', "pass", "otc"),
    stopped("update/optimizer", "zip(self._all, states, strict=True)", "zip(self._all[:1], states)", "ppo"),
    stopped("update/optimizer", "zip(self._all, states, strict=True)", "zip(self._all[1:], states[1:])", "ppo"),
    stopped("algorithm", "part.state.update(saved)", "pass", "otc"),
    part("rewards/tool_calls", "declare(apply, needs=needs, state=remembered)", "declare(apply, needs=needs)", "algorithms/test_tool_use.py -k remember"),
    stopped("sampling/branching_rules", 'OrderedDict(state["seen"])', "OrderedDict()", "arpo"),
    stopped("sampling/branching_rules", 'OrderedDict(state["seen"])', 'OrderedDict(sorted(state["seen"].items()))', "arpo"),
    stopped("sampling/branching_rules", 'dict(state["late"])', "{}", "arpo"),
    stopped("sampling/branching_rules", 'state["usual"], state["asked"]', '0.0, state["asked"]', "arpo"),
    stopped("sampling/branching_rules", 'state["usual"], state["asked"]', 'state["usual"], 0', "arpo"),
    Mutant("trainers/run/checkpoint", "compute_in(model, precision)", "pass", "models/test_precision.py -k continues and full"),
    Mutant("models/lora", "state_dict=learned_state(model)", "state_dict=None", "models/test_precision.py -k continues and full"),
    Mutant("models/loading", "return tree.clone()", "return tree", "models/test_alignment.py -k state"),
    Mutant("models/loading", "tensor.data = tensor.data.clone()", "pass", "trainers/run/test_resume.py -k loaded and ppo"),
    Mutant("models/lora", "sorted(config.target_modules)", "list(config.target_modules)", "models/test_lora_checkpoints.py -k equal"),
    Mutant("models/lora", "is_trainable=True", "is_trainable=False", "trainers/run/test_resume.py -k lora_trains"),
    part("run/trainer", "if not resumed:\n", "if False:\n", f"{REFUSED} through"),
    part("run/run_file", "if kept:", "if False:", f"{REFUSED} history"),
    part("run/trainer", "torch.set_num_threads(config.run.threads)", "pass", f"{REFUSED} threads"),
    part("run/trainer", "config.run.threads or torch.get_num_threads()", "config.run.threads", f"{REFUSED} threads"),
    part("run/trainer", "keyed_random.key(key, self.update))", f"keyed_random.key(key, {HERE}))", "run/test_training_budgets.py -k resumed"),
    part("run/run_file", '{"run.updates", ', '{"run.updates", "run.seed", ', f"{REFUSED} run_file"),
    part("run/run_file", "if before != fingerprint:", "if False:", f"{REFUSED} world"),
    part("run/run_file", "if before == now:", "if True:", f"{REFUSED} versions"),
    stored("checkpoints", "list(found.items())[-1]", "list(found.items())[0]"),
    stored("checkpoints", "_clear(temporary)\n        try:", "try:"),
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
