"""Who may register? Identity numbers, names, phones, and one account for an identity."""

import re
from datetime import date, datetime

from msgspec import Struct
from msgspec.structs import replace

from contracts.enrollment import NAME_DOTS, Registration
from contracts.partners import Partner
from contracts.policy import is_region
from contracts.reasons import Reason, Refused, refused

_ID_NUMBER = re.compile(r"[0-9]{17}[0-9X]", re.ASCII)
_PHONE = re.compile(r"1[3-9][0-9]{9}", re.ASCII)
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECK_DIGITS = "10X98765432"


class Person(Struct, frozen=True, gc=False):
    """A registered person; the fields are the columns of tables.Person."""

    person_id: str
    identity_index: bytes
    region_code: str
    level: str
    key_id: str
    box: str
    recorded_at: datetime
    sequence: int


class Identification(Struct, frozen=True, gc=False):
    """A channel knows a person; the fields are the columns of tables.Identification."""

    person_id: str
    channel_code: str
    sequence: int


class Holder(Struct, frozen=True, gc=False):
    """Whose identity it is already, and which channels know so."""

    person_id: str
    name: str
    channels: tuple[str, ...]

    def known_to(self, channel_code: str) -> "Holder":
        """The same, as the next of a batch finds him."""
        return replace(self, channels=(*self.channels, channel_code))


class Registered(Struct, frozen=True, gc=False):
    """A new person; registration as it is kept."""

    registration: Registration


class Recognised(Struct, frozen=True, gc=False):
    """Another channel names number and name as registered: no second account, but it knows the person now."""

    identification: Identification
    refusal: Refused


def check_digit(first_17: str) -> str:
    """The 18th character of an identity number. Source: GB 11643-1999, ISO 7064 MOD 11-2."""
    return _CHECK_DIGITS[sum(int(d) * weight for d, weight in zip(first_17, _WEIGHTS, strict=True)) % 11]


def normalised(registration: Registration) -> Registration:
    """One way to write each name and number, so that equal people have equal indexes."""
    return replace(
        registration, name=registration.name.strip().translate(NAME_DOTS), phone=registration.phone.strip(),
        id_number=registration.id_number.strip().upper(), email=registration.email.strip(),
    )


def masked(name: str) -> str:
    """The name as topics may carry it: its first character."""
    return name[0] + "*" * (len(name) - 1)


def is_born(birth: str, *, today: date) -> bool:
    """Whether YYYYMMDD is a day of the calendar, and not in the future."""
    try:
        return date(int(birth[:4]), int(birth[4:6]), int(birth[6:])) <= today
    except ValueError:
        return False


def is_name(name: str) -> bool:
    """Whether it can stand on an identity card: 2 to 50 letters, single dots between parts."""
    return 2 <= len(name) <= 50 and all(
        part and all(letter.isalpha() or letter == "〇" for letter in part) for part in name.split("·")
    )


def register(
    registration: Registration, *, region_code: str, channel: Partner, holder: Holder | None, today: date
) -> Registered | Recognised | Refused:
    """May this person open an account? One for an identity; the channel vouches that the name is real.

    A person exists to those channels only that have named number and name: they may apply, ask and pay.
    Source: S0:9, S3:13 (E1); GB 11643 for the number. What is refused is never repeated in the answer.
    """
    number = registration.id_number
    if not is_region(region_code):
        return refused(Reason.REGION_UNKNOWN, field="region_code", got=region_code)
    if not channel.serves(region_code):
        return refused(Reason.CHANNEL_NOT_ENABLED, field="region_code", got=region_code)
    if registration.id_kind != "RESIDENT_ID":
        return refused(Reason.ID_KIND_UNSUPPORTED, field="registration.id_kind", expected="RESIDENT_ID")
    if not _ID_NUMBER.fullmatch(number) or number[17] != check_digit(number[:17]):
        return refused(Reason.ID_CHECKSUM, field="registration.id_number", rule="GB 11643, 18 characters")
    if not is_born(number[6:14], today=today):
        return refused(Reason.ID_BIRTH_DATE, field="registration.id_number", rule="GB 11643, digits 7 to 14")
    if not is_name(registration.name):
        return refused(Reason.NAME_INVALID, field="registration.name", rule="letters, · between parts")
    if not _PHONE.fullmatch(registration.phone):
        return refused(Reason.PHONE_INVALID, field="registration.phone", rule="11 digits, mobile")
    if holder is not None and holder.name != registration.name:
        return refused(Reason.NAME_MISMATCH, field="registration.name")
    if holder is None:
        return Registered(registration)
    exists = refused(Reason.ACCOUNT_EXISTS, field="person_id", expected=holder.person_id)
    if channel.code in holder.channels:
        return exists
    return Recognised(Identification(holder.person_id, channel.code, len(holder.channels) + 1), exists)
