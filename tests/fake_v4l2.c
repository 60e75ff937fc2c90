/* A camera for the tests: a V4L2 driver in user space, laid over libc with LD_PRELOAD.
 *
 * The device named by FAKE_V4L2 opens as a timer that fires 25 times per second; ioctl, mmap and poll on it behave as
 * the kernel's documentation says of a capture device with mapped buffers and 64 x 48 YUYV frames whose brightness
 * counts up. The file FAKE_V4L2_STATE says what happens to it: "stall" stops the frames, "unplug" takes it away.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define WIDTH 64
#define HEIGHT 48
#define FRAME_BYTES (WIDTH * HEIGHT * 2)
#define BUFFERS 8

static int camera = -1, queued[BUFFERS], tail, head;
static unsigned char *memory[BUFFERS], count;
static unsigned frames;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int state_is(const char *word) {
    const char *path = getenv("FAKE_V4L2_STATE");
    char text[16] = "";
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return 0;
    size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    return size && !strncmp(text, word, strlen(word));
}

static int open_camera(void) {
    struct itimerspec rate = {{0, 40000000}, {0, 40000000}};
    if (state_is("unplug")) return errno = ENODEV, -1;
    camera = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    timerfd_settime(camera, 0, &rate, NULL);
    head = tail = 0;
    return camera;
}

static int is_camera(const char *path) {
    const char *mine = getenv("FAKE_V4L2");
    return mine && !strcmp(path, mine);
}

#define OPEN(NAME)                                                                    \
    int NAME(const char *path, int flags, ...) {                                      \
        va_list more;                                                                 \
        va_start(more, flags);                                                        \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;       \
        va_end(more);                                                                 \
        if (is_camera(path)) return open_camera();                                    \
        return ((int (*)(const char *, int, ...))real(#NAME))(path, flags, mode);     \
    }
OPEN(open)
OPEN(open64)

static void *map(int fd, off_t offset) {
    (void)fd;
    return memory[offset / FRAME_BYTES] = calloc(1, FRAME_BYTES);
}

#define MMAP(NAME, OFFSET)                                                                              \
    void *NAME(void *at, size_t size, int access, int flags, int fd, OFFSET offset) {                   \
        if (fd >= 0 && fd == camera) return map(fd, offset);                                            \
        void *(*next)(void *, size_t, int, int, int, OFFSET) = real(#NAME);                             \
        return next(at, size, access, flags, fd, offset);                                               \
    }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

int munmap(void *at, size_t size) {
    for (int i = 0; i < BUFFERS; i++)
        if (at && memory[i] == at) return free(at), memory[i] = NULL, 0;
    return ((int (*)(void *, size_t))real("munmap"))(at, size);
}

int close(int fd) {
    if (fd >= 0 && fd == camera) camera = -1;
    return ((int (*)(int))real("close"))(fd);
}

int poll(struct pollfd *fds, nfds_t number, int timeout) {
    int (*wait)(struct pollfd *, nfds_t, int) = real("poll");
    for (nfds_t i = 0; i < number; i++) {
        if (fds[i].fd != camera || camera < 0) continue;
        if (state_is("unplug")) return fds[i].revents = POLLERR | POLLHUP, 1;
        if (state_is("stall")) return fds[i].revents = 0, wait(NULL, 0, timeout);
    }
    return wait(fds, number, timeout);
}

static int format(struct v4l2_format *wanted) {
    wanted->fmt.pix = (struct v4l2_pix_format){
        .width = WIDTH, .height = HEIGHT, .pixelformat = V4L2_PIX_FMT_YUYV, .field = V4L2_FIELD_NONE,
        .bytesperline = WIDTH * 2, .sizeimage = FRAME_BYTES, .colorspace = V4L2_COLORSPACE_SRGB};
    return 0;
}

static void describe(struct v4l2_buffer *buffer) {
    buffer->length = FRAME_BYTES;
    buffer->m.offset = buffer->index * FRAME_BYTES;
    buffer->bytesused = FRAME_BYTES;
}

static int take_frame(struct v4l2_buffer *buffer) {
    unsigned long long ticks;
    if (state_is("unplug")) return errno = ENODEV, -1;
    if (head == tail || read(camera, &ticks, sizeof ticks) < 0) return errno = EAGAIN, -1;
    buffer->index = queued[tail++ % BUFFERS];
    describe(buffer);
    buffer->sequence = frames++;
    for (int i = 0; i < FRAME_BYTES; i += 2) memory[buffer->index][i] = 16 + count, memory[buffer->index][i + 1] = 128;
    count = (count + 5) % 200;
    return 0;
}

static int control(unsigned long request, void *argument) {
    struct v4l2_buffer *buffer = argument;
    switch (request) {
    case VIDIOC_QUERYCAP:
        *(struct v4l2_capability *)argument = (struct v4l2_capability){
            .driver = "fake", .card = "fake camera", .device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING,
            .capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING | V4L2_CAP_DEVICE_CAPS};
        return 0;
    case VIDIOC_G_FMT: case VIDIOC_S_FMT: case VIDIOC_TRY_FMT: return format(argument);
    case VIDIOC_REQBUFS:
        if (*(unsigned *)argument > BUFFERS) *(unsigned *)argument = BUFFERS; /* count comes first */
        return 0;
    case VIDIOC_QUERYBUF: return describe(buffer), 0;
    case VIDIOC_QBUF: return queued[head++ % BUFFERS] = buffer->index, 0;
    case VIDIOC_DQBUF: return take_frame(buffer);
    case VIDIOC_STREAMON: return 0;
    case VIDIOC_STREAMOFF: return head = tail = 0, 0;
    case VIDIOC_G_PARM: case VIDIOC_S_PARM: case VIDIOC_G_INPUT: case VIDIOC_S_INPUT: case VIDIOC_ENUMINPUT: return 0;
    default: return errno = EINVAL, -1;
    }
}

int ioctl(int fd, unsigned long request, ...) {
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    if (fd >= 0 && fd == camera) return control(request & 0xFFFFFFFF, argument);
    return ((int (*)(int, unsigned long, ...))real("ioctl"))(fd, request, argument);
}
