"""Which own photos train and which validate: as given, else by a hash, copies on one side."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from clothseg_utils.core.text import count_text
from clothseg_utils.data.coco import Split
from clothseg_utils.data.conversion import Notes
from clothseg_utils.data.copies import Groups, source_groups
from clothseg_utils.intake.own_photos import MOST_LOST, OwnPhoto


def divide(
    photos: Sequence[OwnPhoto], val_share: float, group_by: str | None, notes: Notes
) -> list[OwnPhoto]:
    """Give each photo its split: the one that its source has, or one by its group's name.

    Returns:
        the photos but those whose pixels cannot be decoded: only to compare them, all are.
    """
    groups = source_groups({photo.label: photo.path for photo in photos}, pattern=group_by)
    notes.add("left_out", "photos left out that cannot be decoded", groups.broken, broken=True)
    n_broken = len(groups.broken)
    if n_broken > MOST_LOST * len(photos):
        raise ValueError(
            f"{n_broken:,} of {len(photos):,} photos cannot be decoded; expected at most half. "
            "Fetch them again."
        )
    broken = set(groups.broken)
    photos = [photo for photo in photos if photo.label not in broken]
    sizes = groups.sizes
    by_pattern = "" if group_by is None else f", and by {group_by}"
    text = f"groups of copies of one source{by_pattern}"
    in_groups = [f"of {count_text(sum(sizes.values()), 'photo')}"] if sizes else []
    notes.say(text, len(sizes), in_groups)
    near = [f"{pair.first} = {pair.second}" for pair in groups.pairs]
    notes.add("said", "near-equal pictures, taken as copies", near)
    notes.add("said", "photos whose names --group-by does not match", groups.unmatched)
    splits = {photo.source.split for photo in photos}
    if "val" not in splits:
        pool = [photo for photo in photos if photo.split == "train"]
        for photo in _choose_val(pool, groups, val_share, by_pattern):
            photo.split = "val"
    splits_of: dict[str, set[Split]] = defaultdict(set)
    for photo in photos:
        splits_of[groups.key_of[photo.label]].add(photo.split)
    torn = [key for key, of_group in splits_of.items() if len(of_group) > 1]
    notes.add("said", "groups in several of the given splits, which are kept as given", torn)
    for split in {photo.split for photo in photos}:
        if not any(photo.annotations for photo in photos if photo.split == split):
            raise ValueError(
                f"no photo of {split} has annotations that can be used; expected one at least. "
                "Check the classes and the photos."
            )
    return photos


def _choose_val(
    photos: Sequence[OwnPhoto], groups: Groups, val_share: float, by_pattern: str
) -> list[OwnPhoto]:
    """Choose the val photos by a hash of their groups' names: no order, no date, no luck decides.

    Groups with and without annotations are shared out apart, so that both splits can be scored.
    """
    members: dict[str, list[OwnPhoto]] = defaultdict(list)
    for photo in photos:
        members[groups.key_of[photo.label]].append(photo)
    chosen: list[OwnPhoto] = []
    for has_annotations in (True, False):
        of_kind = [
            (hashlib.sha256(key.encode()).digest(), group)
            for key, group in members.items()
            if any(photo.annotations for photo in group) == has_annotations
        ]
        of_kind.sort(key=lambda one: one[0])
        ordered = [group for _, group in of_kind]
        if has_annotations and len(ordered) < 2:
            n_photos = sum(map(len, ordered))
            raise ValueError(
                f"{count_text(n_photos, 'photo')} with usable annotations in "
                f"{count_text(len(ordered), 'group')} of copies of one source{by_pattern}; "
                "expected at least 2, one to train on and one to validate. Check the classes and "
                "the photos."
            )
        chosen += _share_of(ordered, val_share, at_least_one=has_annotations)
    return chosen


def _share_of(
    groups: Sequence[list[OwnPhoto]], share: float, *, at_least_one: bool
) -> list[OwnPhoto]:
    """Take whole groups in their order until they hold the share, none that would pass it by far.

    With `at_least_one`, at least one is taken and one is left.
    """
    wanted = round(share * sum(map(len, groups)))
    taken: list[list[OwnPhoto]] = []
    n_taken = 0
    for group in groups:
        # A group too large for what is missing waits: smaller ones come nearer.
        if abs(wanted - n_taken - len(group)) < wanted - n_taken:
            taken.append(group)
            n_taken += len(group)
    if at_least_one and not taken:
        taken = [min(groups, key=len)]
    if at_least_one and len(taken) == len(groups):
        taken.remove(max(taken, key=len))
    return [photo for group in taken for photo in group]
