"""Progress goes to the error stream and leaves the output stream to data."""

from arriero.common.progress import progress


def test_progress_counts_on_the_error_stream_only(capfd):
    with progress("Encoding", total=3, unit="passages") as advance:
        advance(1)
        advance(2)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Encoding" in err
    assert "3/3" in err
