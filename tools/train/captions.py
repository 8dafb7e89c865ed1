"""What a scene's caption says, in English or Chinese. Everything it says is true of the scene."""

from scenes import HIDE, STAY, Actor, other, passage
from things import ACROSS, AND_BACK, BACKGROUNDS, CAMERAS, LIGHTS, MOTIONS, SIDES, THINGS, WEATHERS


def a(noun):
    return ("an " if noun[0] in "aeiou" and not noun.startswith("uni") else "a ") + noun


def _english_list(words):
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _one(rng, items, plain):
    return items[0] if plain else rng.choice(items)


def _passes(rng, actor, plain):
    """What is said in English and in Chinese of an actor that passes behind another ({other} stays open), mostly with
    the side that it comes from."""
    way = AND_BACK if actor.there_and_back else ACROSS
    if not plain and rng.random() < 0.2:
        which = 0 if actor.there_and_back else 1  # what the motion itself says: the first comes back, the second goes across
        return MOTIONS[HIDE].does[which], MOTIONS[HIDE].chinese[which]
    side = actor.comes_from()
    far = "left" if side == "right" else "right"
    return (
        _one(rng, way.does, plain).replace("{side}", side).replace("{far}", far),
        _one(rng, way.chinese, plain).replace("{side}", SIDES[side]).replace("{far}", SIDES[far]),
    )


def prompt(label, chinese=False):
    """What a reader would write for (thing, background, motion): the plainest caption."""
    thing, background, motion = THINGS[label[0]], BACKGROUNDS[label[1]], MOTIONS[label[2]]
    behind = THINGS[other(label[0])]
    does = motion.does[0], motion.chinese[0]
    if label[2] == HIDE:
        side, back = passage(*label[:2])
        does = _passes(None, Actor(label[0], HIDE, 0.0, rate=side, there_and_back=back), True)
    if chinese:
        return f"一{thing.chinese}{background.chinese[0]}{does[1].format(other='一' + behind.chinese)}"
    return f"{a(thing.english)} {does[0].format(other=a(behind.english))} {background.where[0]}"


def _extras(rng, scene):
    """(English, Chinese) phrases for the camera, the light and the weather, if there is something to say."""
    shot, said = scene.shots[0], []
    for table, key in ((CAMERAS, shot.camera), (LIGHTS, shot.light), (WEATHERS, shot.weather)):
        english, chinese = table[key]
        if english:
            i = rng.randrange(min(len(english), len(chinese)))
            said.append((english[i], chinese[i]))
    return said


def _english(rng, scene, plain):
    first = scene.actors[scene.named[0]]
    background = BACKGROUNDS[scene.shots[0].background]
    where = _one(rng, background.where, plain)
    names = [THINGS[scene.actors[i].thing].english for i in scene.named]
    motion = MOTIONS[first.motion]
    if scene.cut:
        second = scene.actors[scene.named[1]]
        there = BACKGROUNDS[scene.shots[1].background].where
        then = _one(rng, ("then", "cut to", "and then"), plain)
        same = _one(rng, (f"the same {names[0]}", f"the {names[0]}"), plain)
        does, later = _one(rng, motion.does, plain), _one(rng, MOTIONS[second.motion].does, plain)
        if then == "cut to":
            later = _one(rng, MOTIONS[second.motion].doing, plain)
        return f"{a(names[0])} {does} {where}, {then} {same} {later} {_one(rng, there, plain)}"
    if first.motion == HIDE:
        does = _passes(rng, first, plain)[0].format(other=a(names[1]))
        return f"{a(names[0])} {does} {where}" if plain or rng.random() < 0.5 else f"{where}, {a(names[0])} {does}"
    does, doing = _one(rng, motion.does, plain), _one(rng, motion.doing, plain)
    if len(names) > 1:
        things = _english_list([a(x) for x in names])
        motions = [scene.actors[i].motion for i in scene.named]
        if scene.frames == 1 or (all(m == STAY for m in motions) and rng.random() < 0.5):
            forms = (f"{things} {where}", f"{where}, {things}", f"{things}, {background.nouns[0]}")
        elif len(set(motions)) == 1:
            forms = (f"{things} are {doing} {where}", f"{where}, {things} are {doing}", f"{things} {doing} {where}")
        else:
            forms = (
                f"{a(names[0])} {does} beside {a(names[1])} {where}",
                f"{a(names[0])} and {a(names[1])} {where}, the {names[0]} {does}",
                f"{where}, {a(names[0])} is {doing} next to {a(names[1])}",
            )
        return _one(rng, forms, plain)
    name = names[0]
    if scene.frames == 1:
        forms = (f"{a(name)} {where}", f"a picture of {a(name)} {where}", f"{name}, {background.nouns[0]}",
                 f"{where}, {a(name)}", f"{a(name)} {where}")
    else:
        forms = (
            f"{a(name)} {does} {where}",
            f"{a(name)} {does} {where}",
            f"{a(name)} {doing} {where}",
            f"{a(name)} is {doing} {where}",
            f"{where}, {a(name)} {does}",
            f"{where} {a(name)} is {doing}",
            f"the {name} {does} {where}",
            f"a video of {a(name)} {doing} {where}",
            f"{name}, {doing}, {background.nouns[0]}",
        )
    return _one(rng, forms, plain)


def _chinese(rng, scene, plain):
    first = scene.actors[scene.named[0]]
    background = BACKGROUNDS[scene.shots[0].background]
    where = _one(rng, background.chinese, plain)
    names = ["一" + THINGS[scene.actors[i].thing].chinese for i in scene.named]
    bare = THINGS[first.thing].chinese[1:]
    motion = MOTIONS[first.motion]
    does = _one(rng, motion.chinese, plain)
    if scene.cut:
        second = scene.actors[scene.named[1]]
        there = _one(rng, BACKGROUNDS[scene.shots[1].background].chinese, plain)
        then = _one(rng, ("然后", "切换到", "接着"), plain)
        later = _one(rng, MOTIONS[second.motion].chinese, plain)
        same = _one(rng, (f"同{names[0]}", f"这{names[0][1:]}"), plain)
        return f"{names[0]}{where}{does}，{then}{same}{there}{later}"
    if first.motion == HIDE:
        does = _passes(rng, first, plain)[1].format(other=names[1])
        return _one(rng, (f"{names[0]}{where}{does}", f"{where}，{names[0]}{does}"), plain)
    if len(names) > 1:
        things = "、".join(names[:-1]) + "和" + names[-1]
        motions = [scene.actors[i].motion for i in scene.named]
        if scene.frames == 1 or (all(m == STAY for m in motions) and rng.random() < 0.5):
            forms = (f"{things}{where}", f"{where}有{things}", f"{things}，{background.nouns[1]}")
        elif len(set(motions)) == 1:
            forms = (f"{things}{where}{does}", f"{where}，{things}{does}", f"{things}都{where}{does}")
        else:
            forms = (
                f"{names[0]}{where}{does}，旁边是{names[1]}",
                f"{where}，{names[0]}在{names[1]}旁边{does}",
            )
        return _one(rng, forms, plain)
    if scene.frames == 1:
        forms = (f"{names[0]}{where}", f"{where}有{names[0]}", f"{bare}，{background.nouns[1]}")
    else:
        forms = (
            f"{names[0]}{where}{does}",
            f"{names[0]}{where}{does}",
            f"{where}，{names[0]}{does}",
            f"{where}有{names[0]}正在{does}",
            f"一段视频：{names[0]}{where}{does}",
            f"{bare}，{does}，{background.nouns[1]}",
        )
    return _one(rng, forms, plain)


def caption(rng, scene, chinese=None):
    """A caption of the scene: a quarter of them the plainest, an eighth long; half of them Chinese unless told."""
    if chinese is None:
        chinese = rng.random() < 0.5
    plain = rng.random() < 0.25
    said = _extras(rng, scene)
    detail = rng.random() < 0.15 and not scene.cut and BACKGROUNDS[scene.shots[0].background].detail
    if chinese:
        text = _chinese(rng, scene, plain)
        text += "".join("，" + chinese for _, chinese in said)
        if detail:
            text += "。" + detail[1]
        elif rng.random() < 0.2:
            text += "。"
        return text
    text = _english(rng, scene, plain)
    text += "".join(", " + english for english, _ in said)
    if detail:
        text += ". " + detail[0]
    elif rng.random() < 0.2:
        text += "."
    return text[0].upper() + text[1:] if rng.random() < 0.3 else text


def words():
    """Every phrase that captions are put together from: what the tokenizer's words come from."""
    english = ["a an the and are is video picture of beside next to same then cut to , . in on"]
    chinese = ["一", "和", "都", "有", "正在", "同", "这", "然后", "切换到", "接着", "旁边", "旁边是", "在", "一段视频", "，", "。"]
    for thing in THINGS:
        english.append(thing.english)
        chinese += ["一" + thing.chinese[0], thing.chinese[1:]]
    for background in BACKGROUNDS:
        english += [*background.where, background.nouns[0], background.detail[0]]
        chinese += [*background.chinese, background.nouns[1]]
    for motion in MOTIONS:
        english += [x.format(other="") for x in (*motion.does, *motion.doing)]
        chinese += [part for x in motion.chinese for part in x.split("{other}")]
    for table in (CAMERAS, LIGHTS, WEATHERS):
        for these, those in table.values():
            english += these
            chinese += those
    return english, [x.strip("，。") for x in chinese if x]

