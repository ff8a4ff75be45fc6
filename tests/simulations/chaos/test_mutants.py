"""A fault in the program that breaks exactly-once makes chaos fail, and name what does not hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant, chaos_of

if "MUTANTS" in os.environ:  # `make mutants`: some minutes

    @pytest.mark.timeout(300)
    @pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant.name))
    def test_chaos_finds_a_mutant(mutant: Mutant, tmp_path: Path) -> None:
        assert mutant.lost() == []
        mutant.write(tmp_path)
        code, found, printed = chaos_of(tmp_path, mutant, seed=1, minutes=0.5)
        print(f"\n=== {mutant.name}\n{printed}")
        failed = {
            proof["name"] for part in found["rounds"] for proof in part["proofs"] if proof["differing"]
        }
        assert (code, failed & mutant.proofs != set()) == (1, True), printed


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant.name))
def test_every_mutant_finds_its_place_in_the_code(mutant: Mutant) -> None:
    assert mutant.lost() == []
