"""Instructions in words: English and Chinese, several phrasings for each meaning.

``WORDS`` lists the words of each kind, the plain one first and its synonyms after it. Every
phrasing means exactly its ``Instruction``; the tests hold the words of different kinds apart.
"""

from typing import Final, Literal

import numpy as np

from tools.tabletop.language import Instruction, ObjectPhrase

Language = Literal["en", "zh"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "zh")

WORDS: Final[dict[Language, dict[str, tuple[str, ...]]]] = {
    "en": {
        "cup": ("cup", "mug", "teacup", "coffee cup"),
        "bowl": ("bowl", "basin"),
        "plate": ("plate", "dish"),
        "bottle": ("bottle", "flask"),
        "can": ("can", "tin", "soda can", "tin can"),
        "block": ("block", "cube", "box", "brick"),
        "ball": ("ball", "sphere"),
        "banana": ("banana", "plantain"),
        "spoon": ("spoon", "ladle"),
    },
    "zh": {
        "cup": ("杯子", "水杯", "杯", "茶杯", "马克杯", "咖啡杯"),
        "bowl": ("碗", "饭碗"),
        "plate": ("盘子", "碟子", "餐盘", "盘"),
        "bottle": ("瓶子", "水瓶", "瓶"),
        "can": ("罐子", "易拉罐", "罐头", "罐"),
        "block": ("方块", "积木", "立方体", "盒子"),
        "ball": ("球", "小球", "圆球"),
        "banana": ("香蕉",),
        "spoon": ("勺子", "汤匙", "汤勺", "勺"),
    },
}
_ANYTHING: Final[dict[Language, tuple[str, ...]]] = {
    "en": ("object", "thing", "item", "one"),
    "zh": ("东西", "物体", "物品"),
}
_COLOUR_ZH: Final[dict[str, tuple[str, ...]]] = {
    "red": ("红色", "红"),
    "orange": ("橙色", "橘色", "橙"),
    "yellow": ("黄色", "黄"),
    "green": ("绿色", "绿"),
    "blue": ("蓝色", "蓝"),
    "purple": ("紫色", "紫"),
    "white": ("白色", "白"),
    "black": ("黑色", "黑"),
}
_COLOUR_EN: Final[dict[str, tuple[str, ...]]] = {
    **{
        colour: (colour,)
        for colour in ("red", "orange", "yellow", "green", "blue", "white", "black")
    },
    "purple": ("purple", "purple", "violet"),
}
_PLACE_EN: Final[dict[str, tuple[str, ...]]] = {
    "left": ("on the left", "on the left side of the table", "at the left", "on the left side"),
    "right": (
        "on the right",
        "on the right side of the table",
        "at the right",
        "on the right side",
    ),
    "front": (
        "at the front",
        "at the front of the table",
        "in the front",
        "on the near side of the table",
    ),
    "back": (
        "at the back",
        "at the back of the table",
        "in the back",
        "on the far side of the table",
    ),
    "middle": (
        "in the middle",
        "in the middle of the table",
        "in the center",
        "in the centre of the table",
    ),
    "front left": ("in the front left corner", "at the front left", "in the near left corner"),
    "front right": ("in the front right corner", "at the front right", "in the near right corner"),
    "back left": ("in the back left corner", "at the back left", "in the far left corner"),
    "back right": ("in the back right corner", "at the back right", "in the far right corner"),
}
_PLACE_ZH: Final[dict[str, tuple[str, ...]]] = {
    "left": ("左边", "桌子左边", "左侧", "桌子左侧"),
    "right": ("右边", "桌子右边", "右侧", "桌子右侧"),
    "front": ("前面", "桌子前面", "前边", "桌子前方"),
    "back": ("后面", "桌子后面", "后边", "桌子后方"),
    "middle": ("中间", "桌子中间", "桌子中央", "正中间"),
    "front left": ("左前方", "桌子左前方", "左前角"),
    "front right": ("右前方", "桌子右前方", "右前角"),
    "back left": ("左后方", "桌子左后方", "左后角"),
    "back right": ("右后方", "桌子右后方", "右后角"),
}
_RELATION_EN: Final[dict[str, tuple[str, ...]]] = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "in front of": ("in front of", "before"),
    "behind": ("behind", "in back of"),
    "next to": ("next to", "beside", "near", "close to"),
}
_RELATION_ZH: Final[dict[str, tuple[str, ...]]] = {
    "left of": ("左边", "左侧", "左面"),
    "right of": ("右边", "右侧", "右面"),
    "in front of": ("前面", "前边", "前方"),
    "behind": ("后面", "后边", "后方"),
    "next to": ("旁边", "附近", "边上"),
}
_VERB_EN: Final[dict[str, tuple[str, ...]]] = {
    "pick": ("pick up {}", "grasp {}", "take {}", "grab {}", "pick {} up", "lift {}", "get {}",
             "hand me {}", "bring me {}", "give me {}", "fetch {}", "hold {}"),
    "find": ("find {}", "look at {}", "point at {}", "go to {}", "touch {}", "locate {}",
             "reach for {}", "where is {}"),
    "push": ("push {} to the left", "push {} to the right", "push {} away", "push {}",
             "slide {} forward", "move {}", "push {} off the table", "turn {}"),
    "put": ("put {}", "place {}", "move {}", "set {}"),
}  # fmt: skip
_VERB_ZH: Final[dict[str, tuple[str, ...]]] = {
    "pick": ("拿起{}", "抓住{}", "抓起{}", "拿{}", "取{}", "捡起{}", "把{}拿起来", "把{}拿给我",
             "给我{}", "拿取{}", "举起{}", "抓取{}"),
    "find": ("找到{}", "看{}", "指向{}", "去{}那里", "碰一下{}", "触摸{}", "{}在哪里", "找{}"),
    "push": ("把{}推到左边", "把{}推到右边", "推{}", "推动{}", "把{}推开", "移动{}",
             "把{}往前推", "向左推{}"),
    "put": ("把{}放到", "把{}放在", "将{}放到", "把{}移到", "把{}推到"),
}  # fmt: skip
_PLEASE_EN: Final = ("", "", "", "", "please ", "robot, ", "can you ", "now ")
_PLEASE_ZH: Final = ("", "", "", "", "请", "请帮我", "帮我", "机器人，", "现在")


def say(instruction: Instruction, language: Language, rng: np.random.Generator) -> str:
    """The instruction in words, phrased at random; equal generators give equal words."""
    return _say_en(instruction, rng) if language == "en" else _say_zh(instruction, rng)


def say_with_word(
    instruction: Instruction, language: Language, word: str, rng: np.random.Generator
) -> str:
    """As ``say``, with the target's kind called ``word``."""
    if language == "en":
        return _say_en(instruction, rng, word)
    return _say_zh(instruction, rng, word)


def _choice(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    # The first option is the plain one and is said half of the time.
    return options[0] if rng.random() < 0.4 else options[int(rng.integers(len(options)))]


def _even(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _noun(rng: np.random.Generator, phrase: ObjectPhrase, language: Language) -> str:
    return _choice(
        rng, _ANYTHING[language] if phrase.kind is None else WORDS[language][phrase.kind]
    )


def _say_en(instruction: Instruction, rng: np.random.Generator, word: str | None = None) -> str:
    target = _object_en(rng, instruction.target, word)
    reference = instruction.reference
    if reference is not None and instruction.relation is not None:
        relation = _even(rng, _RELATION_EN[instruction.relation])
        link = "" if instruction.relation_is_goal or rng.random() < 0.7 else "that is "
        tail = f" {link}{relation} {_object_en(rng, reference)}"
    else:
        tail = (
            _even(rng, ("", "", " on the table", " from the table"))
            if not instruction.target.place
            else ""
        )
    if instruction.relation_is_goal:
        sentence = _even(rng, _VERB_EN["put"]).format(target) + tail
    else:
        sentence = _choice(rng, _VERB_EN[instruction.action]).format(target + tail)
    return _even(rng, _PLEASE_EN) + sentence + _even(rng, ("", "", "."))


def _object_en(rng: np.random.Generator, phrase: ObjectPhrase, word: str | None = None) -> str:
    colour = "" if phrase.colour is None else _even(rng, _COLOUR_EN[phrase.colour]) + " "
    noun = word or _noun(rng, phrase, "en")
    article = "the " if rng.random() < 0.85 else ("an " if (colour + noun)[0] in "aeiou" else "a ")
    place = "" if phrase.place is None else " " + _even(rng, _PLACE_EN[phrase.place])
    return article + colour + noun + place


def _say_zh(instruction: Instruction, rng: np.random.Generator, word: str | None = None) -> str:
    target = _object_zh(rng, instruction.target, word)
    reference = instruction.reference
    please = _even(rng, _PLEASE_ZH)
    stop = _even(rng, ("", "", "。"))
    if reference is None or instruction.relation is None:
        where = _even(rng, ("", "", "桌子上的", "桌上的")) if not instruction.target.place else ""
        return please + _choice(rng, _VERB_ZH[instruction.action]).format(where + target) + stop
    relation = _even(rng, _RELATION_ZH[instruction.relation])
    other = _object_zh(rng, reference) + _even(rng, ("", "", "的"))
    if instruction.relation_is_goal:
        return please + _even(rng, _VERB_ZH["put"]).format(target) + other + relation + stop
    whole = f"{_even(rng, ('', '', '在'))}{other}{relation}的{target}"
    return please + _choice(rng, _VERB_ZH[instruction.action]).format(whole) + stop


def _object_zh(rng: np.random.Generator, phrase: ObjectPhrase, word: str | None = None) -> str:
    place = "" if phrase.place is None else _even(rng, _PLACE_ZH[phrase.place]) + "的"
    colour = ""
    if phrase.colour is not None:
        colour = _choice(rng, _COLOUR_ZH[phrase.colour])
        colour += _even(rng, ("的", "的", "")) if colour.endswith("色") else _even(rng, ("", "的"))
    return place + colour + (word or _noun(rng, phrase, "zh"))
