"""CAS(ME)³ part A: both label workbooks, the AU sheet, and the rows known to be wrong (docs/datasets.md).

Layouts read, case and doubled folders ignored: cut clips `Part_A_ME_clip/frame/spNO.1_a_355/355.jpg` and whole
videos `part_A/data/part_A_split/part_A/spNO.1/a/color/355.jpg`; depth pictures and `exception/` are passed over.

Labels: `cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx` (860 rows) or `..._v1.xls` (921, or 943 as first published: then
the rows of `CAS(ME)3_part_A_wrongly_labeled_me_in_V1.xlsx` are left out where that list is present). Action units
come from `CAS(ME)3_part_A_v2.xls`, sheet `AU+Emotion`, where it is present. A video shows several clips, so a clip is
named by video and onset as the table states it: `a_355`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from finetune import annotations as cells
from finetune import schemes
from finetune.clips import Clip
from finetune.datasets import assemble, casme3_frames
from finetune.datasets.assemble import Entry
from finetune.datasets.casme3_frames import SUBJECT, VARIANTS, Key, as_key
from finetune.datasets.choosing import check_option, choose, within
from finetune.datasets.finding import NotHere, check_root, workbooks
from finetune.validation import Validation, is_simulated
from shards.errors import FlickerError

FPS = 30.0
SHEET = "label"
COLUMNS = ("Subject", "Filename", "Onset", "Apex", "Offset", "emotion")
OPTIONAL = ("AU", "Objective class")
AU_SHEET = "AU+Emotion"
AU_COLUMNS = ("Subject", "Filename", "Onset", "AU", "Expression type")
BOOK = r"cas\(me\)\^?3_part_a_me_label_jpgindex(?:_v([12]))?\.(?:xlsx?|csv)"
AU_BOOK = r"cas\(me\)\^?3_part_a(?:_v([12]))?\.(?:xlsx?|csv)"
WRONG_LIST = r"cas\(me\)\^?3_part_a_wrongly_labeled_me_in_v1\.(?:xlsx?|csv)"
VERSIONS = ("auto", "v2", "v1", "tpami")
LABELS = ("disgust", "surprise", "others", "fear", "anger", "sad", "happy")
PUBLISHED_LABELS = {
    "tpami": dict(zip(LABELS, (281, 201, 170, 93, 70, 64, 64), strict=True)),
    "v1": dict(zip(LABELS, (275, 199, 166, 91, 67, 63, 60), strict=True)),
    "v2": dict(zip(LABELS, (250, 187, 161, 86, 64, 57, 55), strict=True)),
}
PUBLISHED_SUBJECTS = {"tpami": 100, "v1": 95, "v2": 94}
KNOWN = (  # subject, video, what is stated wrongly, the wrong value, the right one
    (149, "d", "apex", 83, 123),
    (216, "d", "onset", 3647, 2647),
    (40, "e", "offset", 0, {1812: 1845, 2327: 2403}),
    (214, "c", "offset", 3460, 34),
    (216, "e", "onset", 0, 1),
    (216, "e", "apex", 0, 1),
)


def inspect(root: str | Path, version: str = "auto", variant: str = "auto") -> tuple[list[Clip], Validation]:
    """Clips of CAS(ME)³ part A under `root`, in workbook order, and the report of what was found and repaired.

    Args:
        root: folder that holds the workbook and the frames, at any of the published depths.
        version: 'v2' (860 rows), 'v1' (921), 'tpami' (the 943 rows first published, none left out), or 'auto' (v2
            before v1; 943 rows become v1 where the list of wrongly labelled rows is present).
        variant: 'clips' (frames of cut clips), 'videos' (whole videos), or 'auto' (clips before videos).

    Raises:
        FlickerError: no workbook, no frames, a missing column, a bad row, the same clip twice.
        UsageError: an unknown version or variant.
    """
    check_option("version", version, VERSIONS)
    check_option("variant", variant, VARIANTS)
    root = check_root(root, "CAS(ME)³")
    edition, workbook = _find_workbook(root, version)
    images = casme3_frames.find(root, variant)
    report = Validation("casme3", str(root), str(workbook), edition, str(images.root), is_simulated(root))
    table = cells.read_sheet(workbook, SHEET, COLUMNS, optional=OPTIONAL)
    report.notes += table.notes
    entries = [_entry(row, report) for row in table]
    entries = _without_wrong_labels(entries, root, version, report)
    assemble.refuse_duplicates(entries)
    _join_units(entries, root, report)
    for entry in entries:
        _correct(entry, report)
    tree = casme3_frames.assign(entries, images, report)
    files = partial(casme3_frames.readable, images=images, report=report)
    clips = assemble.clips(entries, tree, report, dataset="casme3", fps=FPS, labels=LABELS, files=files)
    if images.kind == "clips":
        report.unlabelled = [path.name for path in images.shown if path not in tree.values()]
    labels = PUBLISHED_LABELS[report.version]
    report.published = sum(labels.values()), PUBLISHED_SUBJECTS[report.version]
    schemes.count(report, clips, labels)
    return within(clips), report


def _find_workbook(root: Path, version: str) -> tuple[str, Path]:
    """('v2' or 'v1', workbook) under `root`."""
    present: dict[str, Path] = {}
    for match, path in workbooks(root, BOOK):
        present.setdefault(f"v{match[1] or 1}", path)
    name = choose(present, "v1" if version == "tpami" else version, ("v2", "v1"))
    if name is None:
        other = f" (found {', '.join(path.name for path in present.values())})" if present else ""
        wanted = "v2.xlsx" if version in ("auto", "v2") else "v1.xls"
        raise NotHere(
            f"{root}: no workbook cas(me)3_part_A_ME_label_JpgIndex_{wanted}{other}; "
            "put the label workbook of CAS(ME)³ part A there"
        )
    return name, present[name]


def _key(row: cells.Row) -> Key:
    """The row's key. Raises FlickerError naming the row."""
    number = SUBJECT.fullmatch(cells.text(row.cells["Subject"]))
    onset = cells.frame_cell(row.cells["Onset"])
    if number is None:
        raise FlickerError(f"{row.at}: 'Subject' is {row.cells['Subject']!r}; expected a subject such as spNO.1")
    if onset is None:
        raise FlickerError(f"{row.at}: 'Onset' is {row.cells['Onset']!r}; expected a frame number")
    return int(number[1]), cells.clip_name(row).lower(), onset


def _entry(row: cells.Row, report: Validation) -> Entry:
    """What a row states."""
    key = _key(row)
    subject, clip = f"spNO.{key[0]}", f"{cells.clip_name(row)}_{key[2]}"
    onset, offset = assemble.interval(row, f"{subject}/{clip}", "Onset", "Offset")
    entry = Entry(
        subject=subject,
        clip=clip,
        onset=onset,
        offset=offset,
        apex=cells.frame_cell(row.cells["Apex"]),
        said=cells.text(row.cells["Apex"]),
        emotion=cells.label(row, "emotion"),
        units=row.cells["AU"],
        objective=cells.objective_class(row.cells["Objective class"]),
        key=key,
        at=row.at,
    )
    if entry.objective is None and (said := cells.text(row.cells["Objective class"])):
        entry.flags.append(report.note(entry.name, "objective-missing", said))
    return entry


def _without_wrong_labels(entries: list[Entry], root: Path, version: str, report: Validation) -> list[Entry]:
    """Of the 943 rows first published, those that the authors' list does not name; other tables stay as they are."""
    if report.version == "v2" or len(entries) != sum(PUBLISHED_LABELS["tpami"].values()):
        if version == "tpami":
            raise NotHere(f"{report.workbook}: {len(entries)} rows, not the 943 of version tpami; ask for v1")
        return entries
    found = next((path for _, path in workbooks(root, WRONG_LIST)), None)
    if version == "tpami" or (found is None and version == "auto"):
        report.version = "tpami"
        return entries
    if found is None:
        raise FlickerError(
            f"{report.workbook}: its 943 rows include the 22 wrongly labelled; put CAS(ME)3_part_A_wrongly_labeled_me"
            "_in_V1.xlsx beside it, or give --data.version tpami"
        )
    listed = {_key(row): row for row in cells.read_sheet(found, "Sheet1", COLUMNS[:3])}
    kept = [entry for entry in entries if entry.key not in listed]
    for entry in entries:
        if entry.key in listed:
            report.note(entry.name, "wrongly-labelled", f"row {listed[entry.key].number} of {found.name}")
    for key in listed.keys() - {entry.key for entry in entries}:
        report.notes.append(f"{found.name}: lists spNO.{key[0]}/{key[1]}_{key[2]}, but there is no such row")
    return kept


def _join_units(entries: list[Entry], root: Path, report: Validation) -> None:
    """Action units and expression type from the AU sheet of the same edition (else of another), where present."""
    present: dict[str, Path] = {}
    for match, path in workbooks(root, AU_BOOK):
        present.setdefault(f"v{match[1] or 1}", path)
    edition = "v2" if report.version == "v2" else "v1"
    name = choose(present, "auto", (edition, "v2", "v1"))
    if name is None:
        return
    coded: dict[Key, cells.Row] = {}
    for row in cells.read_sheet(present[name], AU_SHEET, AU_COLUMNS):
        try:
            key = _key(row)
        except FlickerError as error:  # of 4206 rows most are macro-expressions, which nothing here needs
            report.notes.append(f"not used: {error}")
            continue
        if _micro(row) or key not in coded:
            coded[key] = row
    alone = [entry.name for entry in entries if entry.key not in coded]
    if alone:
        report.notes.append(f"{present[name].name} has no row for {len(alone)} clips, e.g. {alone[0]}")
    for entry in entries:
        if entry.key in coded:
            _take_units(entry, coded[entry.key], report)


def _micro(row: cells.Row) -> bool:
    """Whether the AU sheet calls the row a micro-expression."""
    return cells.text(row.cells["Expression type"]).lower().startswith("micro")


def _take_units(entry: Entry, row: cells.Row, report: Validation) -> None:
    """The AU sheet's units in place of the label table's, reported where they differ."""
    stated, coded = (cells.action_units(units)[0] for units in (entry.units, row.cells["AU"]))
    if coded and set(stated) != set(coded):
        was = cells.text(entry.units) or "blank"
        entry.flags.append(report.note(entry.name, "au-sheet", f"{was} -> {cells.text(row.cells['AU'])}"))
        entry.units = row.cells["AU"]
    if not _micro(row):
        kind = cells.text(row.cells["Expression type"]) or "blank"
        entry.flags.append(report.note(entry.name, "not-micro", f"{kind} in row {row.number} of the AU sheet"))


def _correct(entry: Entry, report: Validation) -> None:
    """Apply the known corrections of this row."""
    number, video, stated = as_key(entry)
    for subject, name, what, wrong, right in KNOWN:
        value = right.get(stated) if isinstance(right, dict) else right
        if (number, video) == (subject, name) and getattr(entry, what) == wrong and value is not None:
            assemble.known(entry, report, **{what: value})
