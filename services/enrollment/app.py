"""How does enrollment start? `python -m services.enrollment.app`"""

from services.chassis.service import Service
from services.enrollment.handlers import on

if __name__ == "__main__":
    Service("enrollment", on).run()
