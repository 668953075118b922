"""Who lives in the synthetic city? Names, identity numbers and phones of nobody, drawn from a seed."""

from datetime import date, timedelta
from random import Random

from msgspec import Struct

REGION = "990100"  # an unassigned prefix of GB/T 2260, so no number made here is anybody's
TODAY = date(2024, 12, 20)  # the demo's civil day
FIRST_PHONE = (
    19_900_000_000  # a number block for tests only: nothing is ever dialled, the SMS gateway is a simulator
)
GROWN_UP = 14  # years; who is younger is reached through the household's head

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643-1999
_CHECK_DIGITS = "10X98765432"

_SURNAMES = (
    *"王李张刘陈杨赵黄周吴徐孙马朱胡郭何林罗郑梁谢宋唐许韩冯邓曹彭曾萧田董潘袁蔡蒋余于亓禤乜㑇",
    "欧阳", "司马", "诸葛", "上官", "夏侯", "尉迟",
)
_GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰" \
         "建国文辉宇浩轩子涵梓萱诗雨欣怡博思源佳琪晨曦一诺若溪安然知远"
# A mobile keyboard, a bank's host and a font can each fail on these.
_RARE = "喆堃翀赟昇犇骉淼焱垚龑昉旻暐珺玥婳甯祎彧铖䶮㛃𬭎𠅤𫖯"
_ELSEWHERE = (
    "阿依古丽·买买提", "古丽巴哈尔·艾合买提", "迪丽热巴·吐尔逊", "买买提明·阿不都热合曼", "尼格买提·热合木",
    "卓玛·次仁", "扎西·多吉", "巴图·孟克", "乌云·娜仁", "阿卜杜萨拉木·阿卜杜热西提",
)
_HOUSEHOLD_SIZES = (1, 2, 3, 4, 5, 6)
_HOUSEHOLD_WEIGHTS = (20, 28, 27, 14, 8, 3)


class Resident(Struct, frozen=True, kw_only=True):
    """Somebody of the city. phone: own, or the household head's for a child. email: empty for most."""

    household: int
    name: str
    id_number: str
    phone: str
    email: str
    born: date

    @property
    def age(self) -> int:
        """Full years on the demo's day."""
        had_birthday = (TODAY.month, TODAY.day) >= (self.born.month, self.born.day)
        return TODAY.year - self.born.year - (0 if had_birthday else 1)


def check_digit(first_17: str) -> str:
    """The 18th character of an identity number. Source: GB 11643-1999, ISO 7064 MOD 11-2."""
    return _CHECK_DIGITS[sum(int(d) * w for d, w in zip(first_17, _WEIGHTS, strict=True)) % 11]


def settle(count: int, random: Random) -> list[Resident]:
    """`count` people in households of one to six, children with their elders. Same random, same people."""
    people: list[Resident] = []
    taken: set[str] = set()
    household = 0
    while len(people) < count:
        household += 1
        size = random.choices(_HOUSEHOLD_SIZES, _HOUSEHOLD_WEIGHTS)[0]
        surname = random.choice(_SURNAMES)
        head_phone = ""
        for seat in range(min(size, count - len(people))):
            born = _birthday(seat, random)
            phone = str(FIRST_PHONE + len(people))
            if seat == 0:
                head_phone = phone
            person = Resident(
                household=household,
                name=_name(surname, seat, random),
                id_number=_id_number(born, taken, random),
                phone=phone,
                email="",
                born=born,
            )
            people.append(_reached_by(person, head_phone, len(people), random))
    return people


def _reached_by(person: Resident, head_phone: str, number: int, random: Random) -> Resident:
    mail = f"citizen{number:06d}@city.example" if random.random() < 0.2 else ""
    return Resident(
        household=person.household,
        name=person.name,
        id_number=person.id_number,
        born=person.born,
        email=mail,
        phone=head_phone if person.age < GROWN_UP else person.phone,
    )


def _birthday(seat: int, random: Random) -> date:
    """Seat 0 and 1 are adults; from seat 2 on a child, a student or a grandparent."""
    if seat < 2:
        years = random.randint(24, 79)
    else:
        years = random.choice(
            (random.randint(1, 5), random.randint(6, 17), random.randint(18, 23), random.randint(60, 92))
        )
    return TODAY - timedelta(days=years * 365 + random.randint(20, 340))


def _name(surname: str, seat: int, random: Random) -> str:
    if random.random() < 0.02:
        return random.choice(_ELSEWHERE)
    if seat == 1 and random.random() < 0.8:  # most couples keep two surnames
        surname = random.choice(_SURNAMES)
    letters = [
        random.choice(_RARE) if random.random() < 0.04 else random.choice(_GIVEN)
        for _ in range(random.choice((1, 2, 2, 2)))
    ]
    return surname + "".join(letters)


def _id_number(born: date, taken: set[str], random: Random) -> str:
    while True:
        first_17 = f"{REGION}{born:%Y%m%d}{random.randint(1, 999):03d}"
        if first_17 not in taken:
            taken.add(first_17)
            return first_17 + check_digit(first_17)
