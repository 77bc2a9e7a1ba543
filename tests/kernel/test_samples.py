"""The samples of the documentation are what the commands say."""

import pytest

from tests import docs
from tests.unit.test_docs import PAGES

SAMPLES = [sample for page in PAGES for sample in docs.samples(page)]


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.label for sample in SAMPLES])
def test_a_sample_is_what_its_commands_say(sample):
    """After a change of messages: ``make docs``."""
    assert sample.commands, "a sample without a command"
    assert docs.normal(sample.text) == docs.normal(docs.written(sample))
