"""How does billing start? `python -m services.billing.app`"""

from services.billing.handlers import on
from services.chassis.service import Service

if __name__ == "__main__":
    Service("billing", on).run()
