// A disk that keeps only what it was told to sync, for LD_PRELOAD.
//
// A regular file in the folder $POWER_CUT_LIVE has a copy of its name in the folder $POWER_CUT_SYNCED. The copy gets the
// file's contents whenever the process syncs it, all at once and before the call returns; a file that was never synced
// has none. After the process was killed, the copies are what a power cut at that moment leaves at the least. Names are
// taken to be durable at once: a removed file has no copy any more.

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include <dlfcn.h>
#include <unistd.h>

namespace fs = std::filesystem;

static fs::path folder(const char* variable) {
    const char* value = std::getenv(variable);
    if (value == nullptr) std::abort();
    return value;
}

// Where the copy of a file is, if the file is one of those that have a copy.
static std::optional<fs::path> copy_of(const fs::path& file) {
    static const fs::path live = folder("POWER_CUT_LIVE"), synced = folder("POWER_CUT_SYNCED");
    if (file.parent_path() != live) return std::nullopt;
    return synced / file.filename();
}

// The contents come through the descriptor at hand: closing another one would drop the locks SQLite holds on the file.
static void copy(int descriptor, const fs::path& to) {
    const fs::path part = to.string() + ".part";
    std::ofstream out(part, std::ios::binary);
    char buffer[1 << 16];
    off_t offset = 0;
    ssize_t count;
    while ((count = pread(descriptor, buffer, sizeof buffer, offset)) > 0) {
        out.write(buffer, count);
        offset += count;
    }
    out.close();
    if (count < 0 || !out) std::abort();
    fs::rename(part, to);  // a kill during the copy leaves the one before
}

// The real disk needs no sync: the page cache outlives the process.
static int sync_copy(int descriptor) {
    std::error_code none;
    const fs::path file = fs::read_symlink("/proc/self/fd/" + std::to_string(descriptor), none);
    if (const auto to = copy_of(file); to && fs::is_regular_file(file, none)) copy(descriptor, *to);
    return 0;
}

extern "C" int fsync(int descriptor) { return sync_copy(descriptor); }

extern "C" int fdatasync(int descriptor) { return sync_copy(descriptor); }

extern "C" int unlink(const char* path) noexcept {
    static const auto real = reinterpret_cast<int (*)(const char*)>(dlsym(RTLD_NEXT, "unlink"));
    std::error_code none;
    const int result = real(path);
    if (const auto to = copy_of(fs::absolute(path, none)); to && result == 0) real(to->c_str());
    return result;
}
