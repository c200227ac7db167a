"""`python -m yolov5_nas` is `yolov5-nas`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
