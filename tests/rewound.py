"""A finished run as it was in the middle, to go on from there."""

import shutil


def rewound(run, again, step):
    """The folder of a run as it was after `step`."""
    shutil.copytree(run, again)
    for path in (again / "checkpoints").glob("step-*"):
        if int(path.name[5:]) > step:
            shutil.rmtree(path)
    shutil.rmtree(again / "model")
    (again / "finished.json").unlink()
    (again / "checkpoints" / "latest").write_text(f"step-{step:08}\n")
    return again
