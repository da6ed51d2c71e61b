"""Flame graphs: what stands in the picture."""

from tests.bench.profile import entitled


def test_a_picture_shows_no_command_line_of_this_machine() -> None:
    drawn = (
        '<svg><text id="title" x="50.0000%" y="24.00">/somewhere/py-spy record --pid 7\n</text><text>frame</text></svg>'
    )
    assert entitled(drawn, "accept: intake") == (
        '<svg><text id="title" x="50.0000%" y="24.00">accept: intake</text><text>frame</text></svg>'
    )
