/*
 * A stand-in for libnvidia-ml.so.1 where there is no GPU: one GPU, as far as
 * nvidia-ctk asks for it. Results are those of nvml.h: 0 success, 3 not supported.
 */
#include <string.h>

typedef void *device;
typedef struct { char legacy[16]; unsigned domain, bus, dev, id, sub; char bus_id[32]; } pci;

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int r) { return r ? "not supported" : "success"; }
int nvmlSystemGetDriverVersion(char *v, unsigned n) { strncpy(v, VERSION, n); return 0; }
int nvmlSystemGetCudaDriverVersion(int *v) { *v = 13000; return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, device *d) { *d = (device)1; return i ? 2 : 0; }
int nvmlDeviceGetHandleByUUID(const char *u, device *d) { *d = (device)1; return 0; }
int nvmlDeviceGetIndex(device d, unsigned *i) { *i = 0; return 0; }
int nvmlDeviceGetMinorNumber(device d, unsigned *i) { *i = 0; return 0; }
int nvmlDeviceGetUUID(device d, char *u, unsigned n) { strncpy(u, "GPU-11111111-2222-3333-4444-555555555555", n); return 0; }
int nvmlDeviceGetName(device d, char *u, unsigned n) { strncpy(u, "NVIDIA Stand-in", n); return 0; }
int nvmlDeviceGetBrand(device d, int *b) { *b = 5; return 0; }
int nvmlDeviceGetArchitecture(device d, unsigned *a) { *a = 7; return 0; }
int nvmlDeviceGetPciInfo_v3(device d, pci *p) { memset(p, 0, sizeof *p); p->bus = 1; strcpy(p->bus_id, "00000000:01:00.0"); return 0; }
int nvmlDeviceGetMigMode(device d, unsigned *a, unsigned *b) { return 3; }
int nvmlDeviceGetMaxMigDeviceCount(device d, unsigned *n) { *n = 0; return 0; }
int nvmlDeviceIsMigDeviceHandle(device d, unsigned *is) { *is = 0; return 0; }
int nvmlDeviceGetGpuFabricInfo(device d, void *i) { return 3; }
int nvmlDeviceGetGpuFabricInfoV(device d, void *i) { return 3; }
int nvmlDeviceGetAddressingMode(device d, void *m) { return 3; }
