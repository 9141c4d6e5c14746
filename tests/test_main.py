"""The command line comparison: its table, its options, and what goes where."""

import jax
import numpy as np
import pytest

from tn4ml_plus import __main__ as command


# The README's first command shows that the command runs; this one reads what it says.
@pytest.mark.long
def test_quick_writes_the_table_to_stdout_and_progress_to_stderr(capsys):
    command.main(["--quick"])
    out, err = capsys.readouterr()
    header, rule, *rows = out.strip().splitlines()
    assert all(model in header for model in command.MODELS)
    assert set(rule) == {"-"}
    assert [row.split()[0] for row in rows[:3]] == ["iris", "wine", "seconds"]
    for row in rows[:2]:
        means = [float(word) for word in row.split("±")[0].split()[1:]]
        assert all(85 < mean <= 100 for mean in means)
    assert "docs/" in out
    assert "fit" in err
    assert "%|" not in out


def test_table_marks_every_best_of_a_row():
    accuracy = np.full((2, 4, command.FOLDS), 0.5)
    accuracy[0, 2] = 0.9
    accuracy[1, :2] = 0.8
    accuracy[1, 0, :2] = 0.7, 0.9
    rows = command.table(("a", "b"), accuracy, np.ones_like(accuracy)).splitlines()[2:5]
    assert [row.count("*") for row in rows] == [1, 2, 0]
    assert "90.0 ± 0.0 *" in rows[0]
    assert "80.0 ± 6.3 *" in rows[1]
    assert rows[2].split()[-4:] == ["10.0"] * 4


def test_unknown_option_shows_the_usage(capsys):
    with pytest.raises(SystemExit):
        command.main(["--slow"])
    assert "--quick" in capsys.readouterr().err


@pytest.fixture
def jax_folder():
    """Function that sets the folder which JAX has, until the test ends."""
    before = jax.config.jax_compilation_cache_dir
    yield lambda folder: jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_compilation_cache_dir", before)


def refuse():
    raise PermissionError("others can write to it")


def test_without_a_folder_for_programs_the_command_goes_on(capsys, monkeypatch, jax_folder):
    numbers = np.ones((2, len(command.QUICK), len(command.MODELS), command.FOLDS))
    monkeypatch.setattr(command, "evaluate", lambda names: numbers)
    monkeypatch.setattr(command, "cache_compilations", refuse)
    jax_folder(None)
    command.main(["--quick"])
    out, err = capsys.readouterr()
    assert "not kept for the next run: others can write to it" in err
    assert "iris" in out


def test_programs_are_kept_unless_jax_has_a_folder(monkeypatch, jax_folder):
    calls = []
    monkeypatch.setattr(command, "cache_compilations", lambda: calls.append(1))
    jax_folder("elsewhere")
    command.keep_compilations()
    assert not calls
    jax_folder(None)
    command.keep_compilations()
    assert calls
