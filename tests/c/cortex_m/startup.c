/* startup - the vector table of a bare Cortex-M; newlib's semihosting start code (rdimon) does the rest, arguments
 * and files included.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>

void stack_top(void);                    /* mps2.ld: an address; never called */
void _start(void);                       /* newlib: clears .bss, fetches argv from the host, calls main, exits */
void reset(void);
void fault(void);

void reset(void)
{
#ifdef __ARM_FP
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20;     /* CPACR: let everybody use the FPU */
    __asm volatile("dsb\n\tisb");
#endif
    _start();
}

/* Ends QEMU with a message, and exit code 1 rather than a hang. */
void fault(void)
{
    static const char TEXT[] = "fault: the CPU stopped in an exception\n";
    register uint32_t r0 __asm("r0") = 0x04;             /* SYS_WRITE0 */
    register uint32_t r1 __asm("r1") = (uint32_t)TEXT;
    __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    r0 = 0x18;                                           /* SYS_EXIT */
    r1 = 0x20023;                                        /* ADP_Stopped_RunTimeErrorUnknown: not a clean exit */
    __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static void (*const VECTORS[16])(void) = {
    stack_top, reset, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault,
};
