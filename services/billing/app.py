"""How does billing start? `python -m services.billing.app`"""

from services.chassis.service import Service
from services.billing.handlers import on

if __name__ == "__main__":
    Service("billing", on).run()
