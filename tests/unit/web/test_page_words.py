import doctest

import pytest

from pynomaly_tasks.web import templates, uploads
from pynomaly_tasks.web.detectors import detector_forms


@pytest.mark.parametrize("module", [templates, uploads])
def test_examples_in_the_docstrings_are_true(module):
    result = doctest.testmod(module)

    assert result.attempted > 0
    assert result.failed == 0


def test_every_parameter_of_every_detector_has_a_control_that_can_hold_its_default():
    for form in detector_forms():
        for field in form.fields:
            if field.control == "choice":
                assert field.default in field.choices, field
            elif field.control == "several":
                assert set(field.default) <= set(field.choices), field
            elif field.control == "switch":
                assert isinstance(field.default, bool), field
            else:
                assert field.optional or isinstance(field.default, int | float), field
