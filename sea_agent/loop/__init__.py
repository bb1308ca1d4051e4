"""The parts of a round: candidates, the selector, duels that wait for an answer, evaluation."""
