"""Frame folders: names to numbers, gaps, damaged files."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.folders import FileReader, FolderFrames, frame_number, number_files
from shards.frames import SourceError
from tests.shards.material import make_folder


@given(st.lists(st.integers(0, 10**7), unique=True, min_size=1), st.sampled_from(["img", "reg_img", "s01_e2_", ""]))
def test_files_are_ordered_by_number_not_by_name(numbers, prefix):
    files, without = number_files([f"{prefix}{number}.jpg" for number in numbers])
    assert [number for number, _ in files] == sorted(numbers)
    assert without == 0


@given(st.text(max_size=20), st.integers(0, 10**9), st.text(alphabet="abc_-", max_size=5))
def test_number_is_the_last_digit_run_of_the_stem(head, number, tail):
    separator = "" if not head or not head[-1].isdigit() else "_"
    assert frame_number(f"{head}{separator}{number}{tail}.png") == number


def test_padding_does_not_matter_and_suffix_digits_do_not_count():
    assert frame_number("img007.jpg") == 7
    assert frame_number("frame_12_crop.jp2") == 12
    assert frame_number("cover.jpg") is None


def test_two_files_with_one_number_are_refused():
    with pytest.raises(SourceError, match=r"7 occurs twice: a7.jpg and b07.png"):
        number_files(["a7.jpg", "b07.png"])


def test_folder_without_numbers_is_refused():
    with pytest.raises(SourceError, match="no file name carries a frame number"):
        number_files(["a.jpg", "b.jpg"])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".JPG"])
def test_formats_give_the_pictures_that_were_written(tmp_path, suffix):
    frames = list(FolderFrames(make_folder(tmp_path, [9, 10, 11], suffix=suffix), None))
    assert [frame.number for frame in frames] == [9, 10, 11]
    assert frames[0].image.shape == (48, 64, 3)
    assert frames[0].image[20, :, 0].mean() > frames[0].image[20, :, 2].mean() + 30  # RGB, not BGR


def test_damaged_and_unnumbered_files_are_counted(tmp_path):
    make_folder(tmp_path, range(5))
    data = (tmp_path / "reg_img2.jpg").read_bytes()
    (tmp_path / "reg_img2.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "reg_img3.jpg").write_bytes(b"no picture")
    (tmp_path / "cover.png").write_bytes(b"x")
    folder = FolderFrames(tmp_path, 200.0)
    assert [(frame.number, frame.time) for frame in folder] == [(0, 0.0), (1, 0.005), (4, 0.02)]
    assert len(list(folder)) == 3  # a second pass does not count again
    assert folder.counts == {"unreadable_frames": 2, "files_without_number": 1}


def test_a_jpeg_without_its_end_is_damaged_and_one_with_more_after_it_is_not(tmp_path):
    make_folder(tmp_path, range(4))
    one, two = tmp_path / "reg_img1.jpg", tmp_path / "reg_img2.jpg"
    one.write_bytes(one.read_bytes()[:-40])
    two.write_bytes(two.read_bytes() + bytes(30))
    frames = list(FolderFrames(tmp_path, None))
    assert [frame.number for frame in frames] == [0, 2, 3]
    assert frames[1].jpeg == two.read_bytes()


@given(st.lists(st.integers(0, 700_000), max_size=4))
@settings(max_examples=15, deadline=None)
def test_files_of_any_length_are_read_whole(tmp_path_factory, lengths):
    folder = tmp_path_factory.mktemp("files")
    contents = [bytes([n + 1]) * length for n, length in enumerate(lengths)]
    for number, data in enumerate(contents):
        (folder / str(number)).write_bytes(data)
    with FileReader(folder) as reader:
        assert [reader.read(str(number)).tobytes() for number in range(len(contents))] == contents


def test_a_folder_that_vanished_is_a_reason_not_a_crash(tmp_path):
    folder = FolderFrames(make_folder(tmp_path / "in"), None)
    (tmp_path / "in").rename(tmp_path / "away")
    with pytest.raises(SourceError, match="cannot be opened: No such file"):
        list(folder)
