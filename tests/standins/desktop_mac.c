/* Stand-in for IOKit and Core Foundation, as far as the broker uses them, with Apple's signatures.
 *
 * IOKit/pwr_mgt/IOPMLib.h, IOKit/IOKitLib.h, IOKit/IOMessage.h, CoreFoundation/CFRunLoop.h, CFString.h,
 * CFNotificationCenter.h. Written from the documentation of the declarations; nothing is copied.
 *
 * CFRunLoopRun connects to the socket CONTROL and does what the test writes there, a line each: `will-sleep N`,
 * `can-sleep N`, `power M N` (any message), `lock`, `other` (another notification), `stop`. It writes what happens.
 * What the documentation promises only under conditions happens only under them: power messages if the source was
 * added to this thread's loop, notifications if this is the main thread. Wrong pointers abort.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

typedef uint32_t mach_port_t;
typedef void (*interest)(void *, mach_port_t, uint32_t, void *);
typedef void (*notified)(void *, void *, const void *, const void *, const void *);

#define ROOT 0xF00DF00Du /* does not fit a signed int */
#define MUST(condition) do { if (!(condition)) { fprintf(stderr, "broken: %s\n", #condition); abort(); } } while (0)

static int port_object, source_object, loop_object, center_object, mode_object;
static char name_object[128];
static interest on_power;
static void *power_refcon;
static notified on_lock;
static void *lock_observer;
static int source_added;
static FILE *out;

const void *kCFRunLoopDefaultMode = &mode_object;

mach_port_t IORegisterForSystemPower(void *refcon, void **port, interest callback, mach_port_t *notifier)
{
    if (access(CONTROL ".no-power", F_OK) == 0)
        return 0; /* MACH_PORT_NULL */
    power_refcon = refcon;
    on_power = callback;
    *port = &port_object;
    *notifier = 4711;
    return ROOT;
}

void *IONotificationPortGetRunLoopSource(void *port)
{
    MUST(port == &port_object);
    return &source_object;
}

int IOAllowPowerChange(mach_port_t root, intptr_t notification)
{
    MUST(root == ROOT);
    fprintf(out, "allowed %ld\n", (long)notification);
    fflush(out);
    return 0;
}

void *CFRunLoopGetCurrent(void)
{
    return &loop_object;
}

void CFRunLoopAddSource(void *loop, void *source, const void *mode)
{
    MUST(loop == &loop_object && source == &source_object && mode == &mode_object);
    source_added = 1;
}

void *CFStringCreateWithCString(const void *allocator, const char *text, uint32_t encoding)
{
    MUST(allocator == NULL && encoding == 0x08000100u && strlen(text) < sizeof name_object);
    return strcpy(name_object, text);
}

void *CFNotificationCenterGetDistributedCenter(void)
{
    return &center_object;
}

void CFNotificationCenterAddObserver(void *center, const void *observer, notified callback, const void *name,
                                     const void *object, intptr_t behaviour)
{
    MUST(center == &center_object && observer != NULL && name == name_object && object == NULL && behaviour == 4);
    lock_observer = (void *)observer;
    on_lock = callback;
}

static void power(uint32_t message, long argument)
{
    if (on_power && source_added)
        on_power(power_refcon, ROOT, message, (void *)(intptr_t)argument);
}

static void notify(const char *name)
{
    int main_thread = syscall(SYS_gettid) == getpid();
    if (on_lock && main_thread && strcmp(name, name_object) == 0)
        on_lock(&center_object, lock_observer, name_object, NULL, NULL);
}

void CFRunLoopRun(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = CONTROL};
    char line[128];
    unsigned message;
    long argument;
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(connect(descriptor, (struct sockaddr *)&address, sizeof address) == 0);
    FILE *in = fdopen(dup(descriptor), "r");
    out = fdopen(descriptor, "w");
    while (fgets(line, sizeof line, in)) {
        if (sscanf(line, "will-sleep %ld", &argument) == 1)
            power(0xE0000280u, argument);
        else if (sscanf(line, "can-sleep %ld", &argument) == 1)
            power(0xE0000270u, argument);
        else if (sscanf(line, "power %x %ld", &message, &argument) == 2)
            power(message, argument);
        else if (strcmp(line, "lock\n") == 0)
            notify("com.apple.screenIsLocked");
        else if (strcmp(line, "other\n") == 0)
            notify("com.apple.screenIsUnlocked");
        else if (strcmp(line, "stop\n") == 0)
            return;
        fprintf(out, "did %s", line);
        fflush(out);
    }
}
