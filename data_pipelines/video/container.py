"""Opening a container with FFmpeg so that nothing but the video itself is read, and which track is the video.

FFmpeg takes names for addresses ("10:30 talk.mp4" has the protocol "10"), and some containers name other
files or addresses that it would open (playlists, ffconcat, DASH, SDP). Here a name is a file, whatever it
looks like, no other protocol is allowed, and only containers that hold their pictures themselves are read.
"""

import glob
import io
import os
import re
import stat
import sys

import av

from data_pipelines.errors import VideoError

MAX_PIXELS = 1 << 26  # of a frame: 8192 x 8192, 200 MB as RGB
MAX_FRAMES = 1 << 23  # 38 hours at 60 frames per second
MAX_SECONDS = 24 * 3600
# FFmpeg's demuxers of containers that hold their pictures themselves.
CONTAINERS = ("mov,matroska,avi,asf,flv,live_flv,kux,mpeg,mpegts,mpegvideo,ogg,nut,ivf,gif,apng,webp,rm,mxf,"
              "gxf,dv,wtv,swf,yuv4mpegpipe,h261,h263,h264,hevc,vvc,evc,av1,obu,m4v,mjpeg,vc1,vc1test,cavsvideo,dirac,dnxhd,"
              "ivr,nsv,nuv,roq,smk,bink,amv,film_cpk,mv,avs,avs2,avs3,r3d,lxf,pva,tiertexseq,xwma,ty,dxa,rpl,"
              "flic,4xm,aea,jv,iv8,thp,vmd,wc3movie,ipmovie,sga,c93,bfi,bethsoftvid,cdxl")
ERRORS = (av.error.FFmpegError, OSError, ValueError, IndexError)  # what PyAV raises for damaged files
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# How texts begin that name what else to open: m3u8, ffconcat, DASH and SMIL, pls, SDP, RTSP and ASX lists.
_POINTERS = (b"#ext", b"ffconcat", b"<", b"[playlist]", b"[reference]", b"v=0", b"rtsp:", b"file ", b"http:",
             b"https:")


# Tags need not be utf-8: up to PyAV 18 that had to be said, later it is no option any more.
_ANY_TAGS = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def open_container(source: str | os.PathLike | bytes, name: str):
    """Opens a video and chooses its track.

    Args:
        source: path of an existing file, its content, or something with `read` that gives it in order.
        name: what to call the video in errors.

    Returns:
        (container, stream of the video), decoding in one thread; the caller closes the container.

    Raises:
        VideoError: no regular file, empty, no container of a video, or without a track that can be decoded.
    """
    if isinstance(source, bytes):
        what, protocols = io.BytesIO(source), "none"
        if not source:
            raise VideoError(name, "empty (0 bytes)")
    elif hasattr(source, "read"):
        what, protocols = source, "none"
    else:
        _check_file(source, name)
        what, protocols = "file:" + os.path.abspath(os.fsdecode(source)), "file"
    options = {"protocol_whitelist": protocols, "format_whitelist": CONTAINERS}
    try:
        container = av.open(what, options=options, **_ANY_TAGS)
    except ERRORS as error:
        raise VideoError(name, _refused(source, error)) from None
    return container, _track_of(container, name)


def open_camera(number: int, name: str):
    """Opens a camera of this machine; returns what `open_container` does.

    Args:
        number: of the camera, from 0, as the system counts.
        name: what to call it in errors.

    Raises:
        VideoError: there is none of this number, it cannot be opened, or PyAV was built without such devices.
    """
    what, kind = _device(number, name)
    if not any(kind in known.split(",") for known in av.formats_available):
        raise VideoError(name, f"PyAV {av.__version__} was built without {kind}, through which this system "
                               f"gives its cameras: send the pictures with another program (--video=-)")
    try:
        container = av.open(what, format=kind)
    except ERRORS as error:
        there = " ".join(sorted(glob.glob("/dev/video*"))) if kind == "v4l2" else ""
        known = f"; there are {there}" if there else "; there is no /dev/video*" if kind == "v4l2" else ""
        raise VideoError(name, f"no such camera, or it is in use ({what}: {text_of(error)}{known})") from None
    return container, _track_of(container, name)


def _device(number: int, name: str) -> tuple[str, str]:
    """(what FFmpeg opens, by which of its devices) of a camera."""
    if sys.platform == "darwin":
        return str(number), "avfoundation"
    if sys.platform != "win32":
        return f"/dev/video{number}", "v4l2"
    names = [device.name for device in av.enumerate_input_devices("dshow") if "video" in device.media_types]
    if number >= len(names):
        raise VideoError(name, f"no such camera; there are {len(names)}: {', '.join(names) or 'none'}")
    return f"video={names[number]}", "dshow"


def _track_of(container, name):
    """The stream of the video; closes the container if there is none."""
    try:
        return _choose_track(container, name)
    except VideoError:
        container.close()
        raise


def text_of(error: Exception) -> str:
    """What an error of PyAV says, without the name of the file."""
    return getattr(error, "strerror", None) or str(error)


def _check_file(path, name):
    try:
        status = os.stat(path)
    except ValueError:  # a zero byte in the name
        raise VideoError(name, "file does not exist") from None
    except OSError as error:
        reason = f"cannot be opened ({error.strerror})"
        if _ADDRESS.match(os.fsdecode(path)):
            reason = "is an address: only files are opened, download it first"
        elif isinstance(error, FileNotFoundError | NotADirectoryError):
            reason = "file does not exist"
        raise VideoError(name, reason) from None
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(name, "is a folder, not a video file")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(name, "is a device or a pipe, not a video file")
    if status.st_size == 0:
        raise VideoError(name, "empty file (0 bytes)")


def _refused(source, error) -> str:
    """Why FFmpeg does not open it; an invalid argument is mostly a container that is not among CONTAINERS."""
    if hasattr(source, "read"):  # its beginning is read
        return (f"not a readable video ({text_of(error)}): send a container that can be read from a pipe, "
                f"such as mkv, mpegts, nut or fragmented mp4")
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            head = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    except OSError as reason:
        return f"cannot be read ({reason.strerror})"
    if head.startswith(_POINTERS):
        return ("not a readable video (a text or playlist that names what to play: that is not followed; "
                "give the video itself)")
    if isinstance(error, av.error.ArgumentError):
        return "not a readable video (damaged, or no container of videos such as mp4, mkv or avi)"
    return f"not a readable video ({text_of(error)})"


def _choose_track(container, name):
    """The track that ffmpeg takes, its flag "default" and its size count; a still if there is no film.

    The rule is that of fftools/ffmpeg_mux_init.c, in which a still that is larger than the film would win.
    """
    flags = av.stream.Disposition
    tracks = [track for track in container.streams.video if not track.disposition & flags.attached_pic]
    if not tracks:
        only = ", only a cover picture" if container.streams.video else ""
        raise VideoError(name, f"no video stream{only}")
    films = [track for track in tracks if track.frames != 1] or tracks  # 0: the container does not tell

    def score(track):
        area = track.width * track.height if track.codec_context else -1
        return area + 5_000_000 * bool(track.disposition & flags.default)

    stream = max(films, key=score)  # the first of equals
    context = stream.codec_context
    if context is None:
        raise VideoError(name, "the codec of the video stream is unknown")
    if context.width * context.height > MAX_PIXELS:
        raise VideoError(name, f"frames of {context.width} x {context.height} pixels, more than the "
                               f"{MAX_PIXELS} that are decoded: scale it down")
    context.options = {"max_pixels": str(MAX_PIXELS)}  # for frames that are larger than the header says
    stream.thread_count = 1
    return stream
