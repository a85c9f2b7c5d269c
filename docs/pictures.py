"""Takes the pictures of the documentation: ``python docs/pictures.py``; needs the extra ``browser`` and a Chromium."""

from __future__ import annotations

from pathlib import Path

from agentgym.envs.gui import GUIEnv

#: file, family, task, and how many actions of the expert come before the picture
PICTURES = (("gui_files.png", "files", 3, 2), ("gui_flow.png", "flow", 1, 4))


def main() -> None:
    """Write them beside this file."""
    env = GUIEnv(backend="chromium")
    for name, family, number, actions in PICTURES:
        env.reset(seed=number, options={"family": family})
        for _ in range(actions):
            env.step(env.expert() or "")
        (Path(__file__).parent / name).write_bytes(env.screenshot() or b"")
    env.close()


if __name__ == "__main__":
    main()
