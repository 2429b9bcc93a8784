// Chooses a kernel table by what the processor reports (cpuid, including operating-system support
// for the wider registers, which __builtin_cpu_supports checks).
#include <cstring>
#include <new>

#include "kernels.h"

namespace wssl {

extern const Kernels kernels_baseline;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

const Kernels* const* available() {
    struct Tables {
        const Kernels* list[4] = {&kernels_baseline, nullptr, nullptr, nullptr};
        Tables() {
#if defined(__x86_64__)
            __builtin_cpu_init();
            int count = 1;
            if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
                list[count++] = &kernels_avx2;
                if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
                    list[count++] = &kernels_avx512;
            }
#endif
        }
    };
    static const Tables tables;
    return tables.list;
}

const Kernels* select(const char* name) {
    const bool any = name == nullptr || name[0] == '\0';
    const Kernels* found = nullptr;
    for (const Kernels* const* table = available(); *table != nullptr; ++table)
        if (any || std::strcmp((*table)->name, name) == 0) found = *table;
    return found;
}

void out_of_memory() { throw std::bad_alloc(); }

}  // namespace wssl
