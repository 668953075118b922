"""Why was it refused or parked? Stable codes in order of precedence, each with what to do, in Chinese and
English.
"""

from enum import Enum

from msgspec import Struct


class Reason(Enum):
    """The first that applies is the answer; guards stand in this order. On the wire: the member's name."""

    # The request, before anybody reads the message in it
    PATH_UNKNOWN = (
        "地址或方法不存在",
        "no such path, or not with this method",
        "按接口文档核对地址与方法",
        "check path and method",
    )
    TOO_LARGE = (
        "内容超过大小上限",
        "larger than is taken",
        "精简内容后重新发送",
        "make it smaller and send it again",
    )
    TOO_MANY_FORGED = (
        "签名无效的消息过多，暂不留存",
        "too many messages whose signature does not match; this one was not kept",
        "核对密钥与签名原文，稍后重试",
        "check the key and the signed bytes, then try again later",
    )
    REQUEST_UNKNOWN = (
        "查无此请求",
        "no such request of this partner, or its answer said: try again",
        "核对请求号，或重新发送指令",
        "check the request id, or send the command again",
    )
    # The message itself
    BODY_INVALID = (
        "消息无法解析",
        "the bytes are not a message",
        "按接口文档重新编码后发送",
        "encode it as the contract says and send it again",
    )
    TYPE_UNKNOWN = (
        "消息类型未知",
        "the message type is not known",
        "核对 ce_type",
        "check ce_type against the catalogue",
    )
    VERSION_UNSUPPORTED = (
        "消息版本不支持",
        "this version is not supported",
        "改用目录中的版本",
        "use a version from the catalogue",
    )
    SIGNATURE_INVALID = (
        "签名无效",
        "the signature does not match",
        "核对密钥与签名原文",
        "check the key and the signed bytes",
    )
    CLOCK_SKEW = (
        "签名时间超出允许范围",
        "signed too long before or after arrival",
        "校准时钟后重新签名",
        "set the clock right and sign again",
    )
    TIME_IN_FUTURE = (
        "时间晚于当前业务时间",
        "the time lies ahead of the business clock",
        "按业务时间填写，各答复的 answered_at 即业务时间",
        "write a time of the business clock, which every answer shows as answered_at",
    )
    SECRET_IN_MESSAGE = (
        "消息含有密码类或明文个人信息",
        "the message carries a secret or a clear personal number",
        "删除该字段，个人信息须加密",
        "remove the field; seal personal data",
    )
    SCHEMA_INVALID = (
        "字段不符合约定",
        "a field breaks the contract",
        "按字段提示修改",
        "correct the named field",
    )
    NOT_PERMITTED = (
        "该渠道无权发送此消息",
        "this partner may not send this message",
        "核对开通的业务",
        "check what the partner is enabled for",
    )
    FANOUT_TOO_WIDE = (
        "一条消息牵涉对象过多",
        "one message concerns more than 100 at once",
        "按人拆分后发送",
        "split it into one message for each person",
    )
    IDEMPOTENCY_CONFLICT = (
        "同一请求号内容不同",
        "the same request id came with another body",
        "换用新的请求号",
        "use a new request id",
    )
    UNDER_REPAIR = (
        "相关业务正在修复",
        "something about this person is being repaired",
        "稍后重试",
        "try again later",
    )
    # Who and where
    REGION_UNKNOWN = (
        "统筹区未知",
        "the region is not known",
        "核对参保地代码",
        "check the code of the insured place",
    )
    CHANNEL_NOT_ENABLED = (
        "该渠道未在此地区开通",
        "the channel is not enabled in this region",
        "更换渠道",
        "use another channel",
    )
    ID_KIND_UNSUPPORTED = (
        "证件类型不支持",
        "this kind of identity document is not supported",
        "改用居民身份证",
        "use a resident identity card",
    )
    ID_CHECKSUM = (
        "身份证号校验位不符",
        "the ID number's check digit does not match",
        "对照证件核对号码",
        "compare it with the card",
    )
    ID_BIRTH_DATE = (
        "身份证号出生日期无效",
        "the birth date in the ID number is impossible or in the future",
        "对照证件核对号码",
        "compare it with the card",
    )
    NAME_INVALID = (
        "姓名无效",
        "the name is not a person's name",
        "按证件填写姓名",
        "write the name as on the card",
    )
    PHONE_INVALID = (
        "手机号无效",
        "the phone number is not an 11-digit mobile number",
        "核对手机号",
        "check the phone number",
    )
    NAME_MISMATCH = (
        "姓名与登记不一致",
        "the name differs from the one registered for this identity",
        "先到参保地经办机构更正登记",
        "correct the registration at the agency of the insured place first",
    )
    ACCOUNT_EXISTS = (
        "该证件已注册",
        "an account for this identity exists",
        "使用已有账户",
        "use the existing account",
    )
    PERSON_NOT_FOUND = (
        "查无此人",
        "no such person",
        "先注册账户；刚注册请稍后重试",
        "register first; just registered: try again shortly",
    )
    # Enrollment
    SCHEME_UNKNOWN = (
        "险种不支持",
        "the scheme is not supported",
        "改用城乡居民医保",
        "use the resident scheme",
    )
    YEAR_NOT_OPEN = "该年度未开放", "this insurance year is not open", "核对缴费年度", "check the year"
    WINDOW_CLOSED = (
        "不在集中征缴期",
        "outside the collection window",
        "联系参保地经办机构",
        "contact the agency of the insured place",
    )
    CATEGORY_UNKNOWN = "人员类别未知", "the category is not known", "核对人员类别", "check the category"
    ALREADY_ENROLLED = (
        "本年度已参保登记",
        "already enrolled for this year",
        "查询办理进度",
        "ask for the progress of the existing application",
    )
    ENROLLMENT_NOT_FOUND = "查无此参保登记", "no such enrollment", "核对登记号", "check the enrollment id"
    CASE_STATE = (
        "当前状态不能做此操作",
        "not possible in the present state",
        "查询当前状态",
        "ask for the present state",
    )
    SELF_REVIEW = (
        "不能审核本人提交的申请",
        "nobody reviews his own submission",
        "换人审核",
        "let another officer decide",
    )
    # Bills and payment
    CHANNEL_REF_TAKEN = (
        "渠道流水号已用于另一笔款项",
        "this transaction number names another payment already",
        "核对流水号；另一笔款项须用自己的流水号",
        "find out which payment is true; another one needs a number of its own",
    )
    PAY_TIME_UNPROVEN = (
        "缴费时间待核实",
        "the pay time lies in the collection window, but it was reported a day or more after the window closed",
        "等待对账文件核实",
        "wait for the day file, which proves the pay time",
    )
    BILL_NOT_FOUND = (
        "查无缴费单",
        "no such bill",
        "先查询缴费单；刚核定请稍后重试",
        "query the bill first; just approved: try again shortly",
    )
    BILL_NOT_CURRENT = (
        "缴费单已被替代",
        "the bill is not the current one",
        "重新查询缴费单",
        "query the bill again",
    )
    BILL_NOT_PAYABLE = (
        "缴费单当前不可缴",
        "the bill cannot be paid now",
        "查询缴费单状态",
        "ask for the bill's state",
    )
    BILL_ALREADY_SETTLED = "缴费单已缴清", "the bill is settled already", "无需再缴", "nothing to pay"
    BILL_LOCKED = (
        "缴费单正由其他渠道支付",
        "another order for this bill is under way",
        "稍后重试",
        "try again later",
    )
    AMOUNT_MISMATCH = "金额不符", "the amount is not the amount due", "按应缴金额支付", "pay the amount due"
    PERIOD_MISMATCH = "费款所属期不符", "the period is not the bill's period", "核对年度", "check the period"
    PERSON_MISMATCH = (
        "缴费人身份信息不符",
        "the person does not match the bill",
        "核对姓名与证件号",
        "check name and ID number",
    )
    ORDER_UNKNOWN = "订单不存在", "no such order", "核对订单号", "check the order number"
    PAID_TWICE = (
        "重复缴费",
        "this obligation was settled before",
        "款项将原路退回",
        "the money goes back the way it came",
    )
    CHANNEL_DOWN = "支付渠道暂不可用", "the payment provider is not reachable", "稍后重试", "try again later"
    # Inside
    HANDLER_FAILED = (
        "处理程序出错",
        "our handler failed on it",
        "由运维修复后重放",
        "operators repair and redrive it",
    )
    BEHIND_PARKED = (
        "排在待修复消息之后",
        "waits behind a parked message of the same business",
        "随前一消息恢复",
        "resumes with the message before it",
    )
    AWAITS_GROUND = (
        "所依据的事实尚未到达",
        "the fact it rests on has not arrived",
        "到达后自动处理",
        "handled by itself on arrival",
    )
    ID_FROM_FUTURE = "事件号来自未来", "the event id is from the future", "检查时钟", "check the clock"

    def __init__(self, zh: str, en: str, todo_zh: str, todo_en: str) -> None:
        self.zh, self.en, self.todo_zh, self.todo_en = zh, en, todo_zh, todo_en


RETRYABLE = frozenset(
    {
        Reason.TOO_MANY_FORGED,
        Reason.UNDER_REPAIR,
        Reason.PERSON_NOT_FOUND,
        Reason.BILL_NOT_FOUND,
        Reason.BILL_LOCKED,
        Reason.CHANNEL_DOWN,
    }
)


class Refused(Struct, frozen=True, kw_only=True):
    """A refusal in full. got is masked by whoever makes it; it never holds personal data."""

    code: str
    zh: str
    en: str
    todo_zh: str
    todo_en: str
    retryable: bool
    field: str = ""
    rule: str = ""
    expected: str = ""
    got: str = ""


def refused(reason: Reason, *, field: str = "", rule: str = "", expected: str = "", got: str = "") -> Refused:
    """The refusal for a reason, with where it was found and what was expected."""
    return Refused(
        code=reason.name,
        zh=reason.zh,
        en=reason.en,
        todo_zh=reason.todo_zh,
        todo_en=reason.todo_en,
        retryable=reason in RETRYABLE,
        field=field,
        rule=rule,
        expected=expected,
        got=got,
    )
