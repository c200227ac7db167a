"""Imported, it has loaded the host: for the server of `forked.py`, whose processes need not do it again, each."""

from yolov5_nas.host.yolov5 import load

load()
