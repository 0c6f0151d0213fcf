"""What an instruction means, apart from its wording, and whether a scene fits it.

An instruction fits a scene when everything that it refers to is there. A relation that *describes*
the target must hold already ("pick up the cup left of the bowl"); a relation that is the *goal* of
the action need not ("put the cup left of the bowl" only asks for a cup and a bowl).
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from tools.tabletop.scene import Scene, TableObject
from tools.tabletop.vocabulary import COLOURS, KINDS, PLACES, RELATIONS, split_of

Action = Literal["pick", "find", "push", "put"]


@dataclass(frozen=True)
class ObjectPhrase:
    """What an instruction says about one object; ``None`` where it says nothing."""

    kind: str | None = None
    colour: str | None = None
    place: str | None = None

    def matches(self, item: TableObject) -> bool:
        """Whether the object is what the phrase says."""
        return (
            self.kind in (None, item.kind)
            and self.colour in (None, item.colour)
            and (self.place is None or item.at(self.place))
        )


@dataclass(frozen=True)
class Instruction:
    """The meaning of an instruction.

    Attributes:
        action: What to do with the target; ``"put"`` has a reference, and its relation is the goal.
        target: The object acted on.
        relation: One of ``RELATIONS``, or ``None`` where no other object is named.
        reference: The other object; present exactly when ``relation`` is.
    """

    action: Action
    target: ObjectPhrase
    relation: str | None = None
    reference: ObjectPhrase | None = None

    @property
    def relation_is_goal(self) -> bool:
        """Whether the relation tells where to put the target instead of where it is."""
        return self.action == "put"

    @property
    def phrases(self) -> tuple[ObjectPhrase, ...]:
        """The phrases of the objects named, the target first."""
        return (self.target,) if self.reference is None else (self.target, self.reference)


def satisfies(instruction: Instruction, scene: Scene) -> bool:
    """Whether everything that the instruction refers to is in the scene."""
    for item in scene.objects:
        if not instruction.target.matches(item):
            continue
        if instruction.relation is None or instruction.reference is None:
            return True
        for other in scene.objects:
            if other is item or not instruction.reference.matches(other):
                continue
            if instruction.relation_is_goal or item.stands(instruction.relation, other):
                return True
    return False


_ONE_AREA: Final = {
    "front left": 1,
    "front right": 1,
    "middle": 2,
    "back left": 5,
    "back right": 5,
}
"""The places that lie within one area of ``split_of``."""


def names_only_trained_combinations(instruction: Instruction) -> bool:
    """Whether no phrase puts together a colour, a kind and a place that are held out."""
    return all(
        phrase.kind is None
        or phrase.colour is None
        or phrase.place not in _ONE_AREA
        or split_of(phrase.colour, phrase.kind, _ONE_AREA[phrase.place]) == "train"
        for phrase in instruction.phrases
    )


def full_instruction(rng: np.random.Generator, scene: Scene, target: TableObject) -> Instruction:
    """Draw an instruction that names kind, colour and place of two objects, and how they stand."""
    others = [other for other in scene.objects if other is not target]
    other = others[int(rng.integers(len(others)))]
    holding = [relation for relation in RELATIONS if target.stands(relation, other)]
    relation = holding[int(rng.integers(len(holding)))]
    action: Action = "pick" if rng.random() < 0.75 else "find"
    return Instruction(action, _described_fully(target), relation, _described_fully(other))


def _described_fully(item: TableObject) -> ObjectPhrase:
    # The last place that holds is the narrowest.
    place = [place for place in PLACES if item.at(place)][-1]
    return ObjectPhrase(item.kind, item.colour, place)


def _describe(rng: np.random.Generator, item: TableObject, place_share: float) -> ObjectPhrase:
    roll = rng.random()
    kind = item.kind if roll < 0.90 else None
    colour = item.colour if roll >= 0.90 or rng.random() < 0.75 else None
    places = [place for place in PLACES if item.at(place)]
    place = None
    if rng.random() < place_share:
        # A corner object is at three places ("left", "front", "front left"); say the corner half
        # the time.
        place = places[-1] if rng.random() < 0.5 else places[int(rng.integers(len(places)))]
    return ObjectPhrase(kind, colour, place)


def sample_instruction(
    rng: np.random.Generator, scene: Scene, target: TableObject | None = None
) -> Instruction:
    """Draw an instruction that the scene satisfies, with attributes left out at random.

    Args:
        rng: The source of chance.
        scene: The scene, with at least two objects.
        target: The object to act on; any of the scene's where not given.
    """
    objects = scene.objects
    item = target or objects[int(rng.integers(len(objects)))]
    others = [other for other in objects if other is not item]
    if rng.random() < 0.35:
        return full_instruction(rng, scene, item)
    if rng.random() < 0.45:
        action: Action = ("pick", "find", "push")[int(rng.choice(3, p=[0.6, 0.25, 0.15]))]
        return Instruction(action, _describe(rng, item, 0.55))
    other = others[int(rng.integers(len(others)))]
    first, second = _describe(rng, item, 0.25), _describe(rng, other, 0.25)
    if rng.random() < 0.35:
        return Instruction("put", first, RELATIONS[int(rng.integers(len(RELATIONS)))], second)
    holding = [relation for relation in RELATIONS if item.stands(relation, other)]
    relation = holding[int(rng.integers(len(holding)))]
    action = "pick" if rng.random() < 0.75 else "find"
    return Instruction(action, first, relation, second)


def altered(rng: np.random.Generator, instruction: Instruction) -> Instruction:
    """The instruction with one respect changed: a colour, kind, place, relation, or the roles.

    The result names no held-out combination. It may still fit the scene that the original was
    drawn from.
    """
    for _ in range(20):
        candidate = _altered_once(rng, instruction)
        if candidate != instruction and names_only_trained_combinations(candidate):
            return candidate
    return instruction


def _altered_once(rng: np.random.Generator, instruction: Instruction) -> Instruction:
    reference = instruction.reference
    if reference is not None and instruction.relation is not None:
        roll = rng.random()
        if roll < 0.2:
            return replace(instruction, target=reference, reference=instruction.target)
        if roll < 0.4:
            return replace(instruction, relation=RELATIONS[int(rng.integers(len(RELATIONS)))])
        if roll < 0.5:
            return replace(
                instruction,
                target=replace(instruction.target, colour=reference.colour),
                reference=replace(reference, colour=instruction.target.colour),
            )
        if roll < 0.75:
            return replace(instruction, reference=_altered_phrase(rng, reference))
    return replace(instruction, target=_altered_phrase(rng, instruction.target))


def _altered_phrase(rng: np.random.Generator, phrase: ObjectPhrase) -> ObjectPhrase:
    roll = rng.random()
    if phrase.place is not None and roll < 0.4:
        return replace(phrase, place=PLACES[int(rng.integers(len(PLACES)))])
    if phrase.kind is None or (phrase.colour is not None and roll < 0.7):
        return replace(phrase, colour=COLOURS[int(rng.integers(len(COLOURS)))])
    return replace(phrase, kind=KINDS[int(rng.integers(len(KINDS)))])
