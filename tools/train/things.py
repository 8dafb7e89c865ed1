"""What the theatre knows: its things, backgrounds and motions, and their names in English and Chinese."""

from typing import NamedTuple


class Thing(NamedTuple):
    emoji: str
    english: str
    chinese: str  # with the measure word, as in one of them
    faces: int = 0  # which way the drawing looks: -1 left, 1 right, 0 at us
    covers: bool = False  # large and solid: another thing can hide behind it


def _table(text):
    found = []
    for line in text.strip().splitlines():
        emoji, english, chinese, *rest = line.split("|")
        faces = {"<": -1, ">": 1}.get(rest[0][:1] if rest else "", 0)
        found.append(Thing(emoji, english, chinese, faces, bool(rest) and rest[0].endswith("#")))
    return found


# emoji | English | 一 + measure word + Chinese | < or > where it looks, # when something can hide behind it
THINGS = _table("""
🐱|cat|只猫
🐶|dog|只狗
🦊|fox|只狐狸
🐻|bear|只熊|#
🐼|panda|只熊猫|#
🦁|lion|只狮子|#
🐯|tiger|只老虎|#
🐮|cow|头奶牛
🐷|pig|头猪|#
🐸|frog|只青蛙|#
🐵|monkey|只猴子|#
🐰|rabbit|只兔子
🐨|koala|只考拉
🐔|chicken|只鸡|<
🐧|penguin|只企鹅|<
🦉|owl|只猫头鹰
🦄|unicorn|只独角兽|<
🐘|elephant|头大象|<
🐢|turtle|只乌龟|<
🐙|octopus|只章鱼
🦀|crab|只螃蟹
🐠|fish|条鱼|<
🐳|whale|头鲸鱼|<
🐬|dolphin|只海豚|<
🐌|snail|只蜗牛|<
🦋|butterfly|只蝴蝶
🐝|bee|只蜜蜂|<
🐞|ladybug|只瓢虫|<
🦆|duck|只鸭子|<
🦖|dinosaur|只恐龙|<
🚗|car|辆汽车|<
🚌|bus|辆公交车|<#
🚂|train|列火车|<
🚀|rocket|枚火箭
🚁|helicopter|架直升机|<
⛵|sailboat|艘帆船
🚒|fire engine|辆消防车|<#
🛸|flying saucer|个飞碟
🚜|tractor|辆拖拉机|<
🍎|apple|个苹果
🍌|banana|根香蕉
🍓|strawberry|个草莓
🍉|watermelon|块西瓜
🍕|pizza|块披萨
🍔|burger|个汉堡|#
🎂|cake|个蛋糕|#
🍦|ice cream|个冰淇淋
🍩|donut|个甜甜圈
🥕|carrot|根胡萝卜
🍄|mushroom|个蘑菇
🌳|tree|棵树|#
🌵|cactus|棵仙人掌
🌻|sunflower|朵向日葵
🏠|house|座房子|#
🏰|castle|座城堡|#
⚽|football|个足球|#
🏀|basketball|个篮球|#
🎈|balloon|个气球
⏰|alarm clock|个闹钟
🎁|present|个礼物|#
🎸|guitar|把吉他
🥁|drum|面鼓
🤖|robot|个机器人|#
👻|ghost|个幽灵
👽|alien|个外星人
⛄|snowman|个雪人
⭐|star|颗星星
❤️|heart|颗红心|#
👑|crown|顶王冠
💎|diamond|颗钻石
🎃|pumpkin|个南瓜|#
🌍|globe|个地球|#
""")


class Background(NamedTuple):
    name: str  # of the function that draws it, in backdrops.py
    where: tuple  # English phrases after the thing
    chinese: tuple  # Chinese phrases before the thing
    nouns: tuple  # (English, Chinese) alone
    detail: tuple  # (English, Chinese) sentences for long captions; may be empty


def _plain(name, chinese):
    return Background(
        name,
        (f"on a {name} background", f"over a {name} background", f"in front of a {name} wall"),
        (f"在{chinese}背景上", f"在{chinese}背景前", f"在{chinese}的墙前"),
        (f"{name} background", f"{chinese}背景"),
        (f"The background is plain {name}.", f"背景是纯{chinese}。"),
    )


BACKGROUNDS = [
    _plain("white", "白色"),
    _plain("yellow", "黄色"),
    _plain("pink", "粉色"),
    _plain("blue", "蓝色"),
    Background("sunset", ("at sunset", "in front of a sunset sky", "under a red evening sky"),
               ("在夕阳下", "在日落时", "在晚霞前"), ("sunset", "日落"),
               ("The sky goes from purple to orange, and the sun is low.", "天空从紫色变成橙色，太阳很低。")),
    Background("meadow", ("in a meadow", "on green grass", "on a green meadow under a blue sky"),
               ("在草地上", "在绿色的草地上", "在蓝天下的草地上"), ("meadow", "草地"),
               ("The sky is blue with white clouds, and the grass is green.", "蓝天白云，绿草如茵。")),
    Background("desert", ("in the desert", "on yellow sand", "in a hot desert"),
               ("在沙漠里", "在黄沙上", "在炎热的沙漠里"), ("desert", "沙漠"),
               ("There are dunes of yellow sand and a bright sun.", "有黄色的沙丘和明亮的太阳。")),
    Background("snowfield", ("in the snow", "on a field of snow", "in a white winter landscape"),
               ("在雪地里", "在白雪上", "在冬天的雪原上"), ("snow", "雪地"),
               ("The ground is white and the sky is pale.", "地面雪白，天空灰蓝。")),
    Background("sea", ("at sea", "over the sea", "on the blue waves"),
               ("在海上", "在大海上", "在蓝色的海浪上"), ("sea", "大海"),
               ("The waves are blue and the sky is bright.", "海浪是蓝色的，天空很亮。")),
    Background("night", ("at night", "under the stars", "in front of a night sky with stars"),
               ("在夜里", "在星空下", "在夜晚的星空前"), ("night", "夜晚"),
               ("The sky is dark blue, with stars and a moon.", "天空深蓝，有星星和月亮。")),
    Background("forest", ("in the forest", "in the woods", "among green trees"),
               ("在森林里", "在树林里", "在绿树之间"), ("forest", "森林"),
               ("Tall trunks stand in green light.", "高高的树干立在绿光中。")),
    Background("city", ("in the city", "in front of a city", "in front of tall buildings"),
               ("在城市里", "在城市前", "在高楼前"), ("city", "城市"),
               ("Behind are tall buildings with lit windows.", "后面是亮着窗户的高楼。")),
    Background("underwater", ("under water", "at the bottom of the sea", "in deep water with bubbles"),
               ("在水下", "在海底", "在有气泡的深水里"), ("under water", "水下"),
               ("Bubbles rise through green water.", "气泡在绿色的水中上升。")),
    Background("space", ("in space", "in outer space", "between the planets"),
               ("在太空里", "在宇宙中", "在行星之间"), ("space", "太空"),
               ("It is black all around, with stars and a purple planet.", "四周漆黑，有星星和一颗紫色的行星。")),
    Background("beach", ("on the beach", "on the sand by the sea", "on a sandy beach"),
               ("在海滩上", "在海边的沙滩上", "在沙滩上"), ("beach", "海滩"),
               ("Behind the sand is a strip of blue sea.", "沙滩后面是一条蓝色的海。")),
    Background("mountains", ("in the mountains", "in front of mountains", "in front of high snowy mountains"),
               ("在群山前", "在山里", "在高高的雪山前"), ("mountains", "群山"),
               ("The peaks have white caps.", "山顶是白色的。")),
    Background("stage", ("on a stage", "in front of a red curtain", "on the stage of a theatre"),
               ("在舞台上", "在红色幕布前", "在剧院的舞台上"), ("stage", "舞台"),
               ("A spotlight shines on a red curtain.", "聚光灯照着红色的幕布。")),
    Background("room", ("in a room", "on a wooden floor", "in a room with a window"),
               ("在房间里", "在木地板上", "在有窗户的房间里"), ("room", "房间"),
               ("The wall is light and the floor is made of wood.", "墙是浅色的，地板是木头的。")),
]


class Motion(NamedTuple):
    name: str
    does: tuple  # English: "the cat ..."
    doing: tuple  # English: "a cat ..."
    chinese: tuple  # after the thing


MOTIONS = [
    Motion("left", ("moves left", "moves to the left", "goes left", "travels to the left"),
           ("moving left", "moving to the left", "going left"), ("向左移动", "往左走", "向左边移动")),
    Motion("right", ("moves right", "moves to the right", "goes right", "travels to the right"),
           ("moving right", "moving to the right", "going right"), ("向右移动", "往右走", "向右边移动")),
    Motion("up", ("moves up", "goes up", "rises", "moves upwards"),
           ("moving up", "going up", "rising"), ("向上移动", "上升", "往上移动")),
    Motion("down", ("moves down", "goes down", "sinks", "moves downwards"),
           ("moving down", "going down", "sinking"), ("向下移动", "下沉", "往下移动")),
    Motion("grow", ("grows", "gets bigger", "becomes larger"), ("growing", "getting bigger"),
           ("变大", "越来越大", "慢慢变大")),
    Motion("shrink", ("shrinks", "gets smaller", "becomes smaller"), ("shrinking", "getting smaller"),
           ("变小", "越来越小", "慢慢变小")),
    Motion("spin", ("spins", "turns around", "spins around"), ("spinning", "turning around", "spinning around"),
           ("旋转", "转圈", "不停地旋转")),
    Motion("bounce", ("bounces", "jumps up and down", "bounces up and down", "jumps"),
           ("bouncing", "jumping up and down", "jumping"), ("弹跳", "跳来跳去", "上下跳动")),
    Motion("circle", ("moves in a circle", "circles", "goes round in a circle"),
           ("moving in a circle", "circling"), ("绕圈移动", "绕圈", "沿着圆圈移动")),
    Motion("fall", ("falls from above", "falls down", "drops from above"),
           ("falling from above", "falling down"), ("从上面掉下来", "掉下来", "落下来")),
    Motion("stay", ("stays still", "does not move", "stands still", "rests"),
           ("standing still", "resting"), ("静止不动", "一动不动", "停在那里")),
    Motion("appear", ("appears", "slowly appears", "comes into view"), ("appearing", "slowly appearing"),
           ("出现", "慢慢出现", "显现出来")),
    Motion("hide", ("disappears behind {other} and comes back", "passes behind {other} and comes out again"),
           ("disappearing behind {other} and coming back",), ("消失在{other}后面，又回来", "从{other}后面经过，又出来")),
]


class Passage(NamedTuple):
    """What passes behind another thing, with the side that it comes from: {side}, and {far} for the other one."""

    does: tuple
    chinese: tuple


# Their words are pieces of the tokenizer already, from the motions above.
ACROSS = Passage(("passes behind {other} from {side} to {far}",
                  "disappears behind {other} from the {side} and comes out on the {far}"),
                 ("从{side}到{far}经过{other}后面", "从{side}边消失在{other}后面，又从{far}边出来"))
AND_BACK = Passage(("disappears behind {other} and comes back on the {side}",
                    "comes from the {side}, disappears behind {other} and comes back"),
                   ("从{side}边消失在{other}后面，又回来", "消失在{other}后面，又回到{side}边"))
SIDES = {"left": "左", "right": "右"}

CAMERAS = {
    "still": ((), ()),
    "pan left": (("the camera pans left", "the camera moves to the left"), ("镜头向左移动", "镜头左摇")),
    "pan right": (("the camera pans right", "the camera moves to the right"), ("镜头向右移动", "镜头右摇")),
    "zoom in": (("the camera zooms in", "the camera comes closer"), ("镜头拉近", "镜头推近")),
    "zoom out": (("the camera zooms out", "the camera draws back"), ("镜头拉远", "镜头后退")),
}
LIGHTS = {
    "day": ((), ()),
    "dawn": (("it gets light", "the day breaks", "at dawn it gets brighter"), ("天渐渐亮了", "天亮了", "黎明时变亮")),
    "dusk": (("it gets dark", "night falls", "at dusk it gets darker"), ("天渐渐黑了", "天黑了", "黄昏时变暗")),
}
WEATHERS = {
    "clear": ((), ()),
    "rain": (("it is raining", "in the rain", "rain falls"), ("下着雨", "正在下雨", "雨中")),
    "snow": (("it is snowing", "snow falls", "in falling snow"), ("下着雪", "正在下雪", "雪花飘落")),
}

THING = {thing.english: i for i, thing in enumerate(THINGS)}
BACKGROUND = {background.name: i for i, background in enumerate(BACKGROUNDS)}
MOTION = {motion.name: i for i, motion in enumerate(MOTIONS)}
