"""What settings say of suites without loading them is what there is."""

from influbench.evaluation import evaluator, settings


def test_the_suites_that_settings_name_are_those_that_there_are():
    assert tuple(evaluator.SUITES) == settings.SUITES
