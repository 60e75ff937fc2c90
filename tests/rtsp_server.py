"""A real RTSP camera for the tests: a GStreamer server, run by the system's Python as a child process.

    /usr/bin/python3 tests/rtsp_server.py PORT [USER PASSWORD]

Serves /h264 (when x264 is installed), /jpeg and /tone: 320 x 240 at 15 frames per second, and a sound. Prints "ready"
with the names of the streams. Needs python3-gi, gir1.2-gst-rtsp-server-1.0 and the base and good plugins.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402  the versions must be chosen first

PICTURE = "videotestsrc is-live=true pattern=smpte ! video/x-raw,width=320,height=240,framerate=15/1"
STREAMS = {
    "h264": f"{PICTURE} ! videoconvert ! video/x-raw,format=I420 ! x264enc tune=zerolatency key-int-max=15"
    " ! rtph264pay name=pay0 pt=96",
    "jpeg": f"{PICTURE} ! videoconvert ! video/x-raw,format=I420 ! jpegenc ! rtpjpegpay name=pay0 pt=26",
    "tone": "audiotestsrc is-live=true freq=1000 ! audio/x-raw,rate=8000,channels=1 ! mulawenc"
    " ! rtppcmupay name=pay0 pt=0",
}


def main():
    Gst.init(None)
    server = GstRtspServer.RTSPServer(service=sys.argv[1], address="127.0.0.1")
    if len(sys.argv) > 2:
        server.set_auth(_auth(*sys.argv[2:]))
    names = [name for name in STREAMS if name != "h264" or Gst.ElementFactory.find("x264enc")]
    for name in names:
        factory = GstRtspServer.RTSPMediaFactory(launch=f"( {STREAMS[name]} )", shared=True)
        if len(sys.argv) > 2:
            permissions = GstRtspServer.RTSPPermissions()
            permissions.add_permission_for_role("user", "media.factory.access", True)
            permissions.add_permission_for_role("user", "media.factory.construct", True)
            factory.set_permissions(permissions)
        server.get_mount_points().add_factory(f"/{name}", factory)
    if not server.attach(None):
        sys.exit("the port is taken")
    print("ready", *names, flush=True)
    GLib.MainLoop().run()


def _auth(user, password):
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    return auth


if __name__ == "__main__":
    main()
