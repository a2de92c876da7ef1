"""timm: the smallest model of each of its modules, and others that are much used."""

from __future__ import annotations

from functools import partial

from vision import Builders, Built, smallest, square, without_fake_kernels

USED = """
vit_tiny_patch16_224 deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 beit_base_patch16_224 cait_xxs24_224
eva02_tiny_patch14_224 swin_tiny_patch4_window7_224 twins_svt_small pvt_v2_b0 xcit_tiny_12_p16_224 crossvit_tiny_240
pit_ti_224 levit_128s tnt_s_patch16_224 volo_d1_224 coatnet_nano_rw_224 maxvit_nano_rw_256 davit_tiny focalnet_tiny_srf
hiera_tiny_224 mobilevit_xxs mobilevitv2_050 edgenext_xx_small efficientformer_l1 poolformer_s12 caformer_s18 dpn68
mixer_s16_224 resmlp_12_224 gmlp_ti16_224 convmixer_768_32 convnext_atto convnext_tiny inception_next_tiny nfnet_f0
mambaout_femto fastvit_t8 repvit_m1 starnet_s1 efficientnet_b0 mobilenetv3_small_100 mobilenetv4_conv_small vovnet39a
mobilenetv4_hybrid_medium ghostnetv2_100 rexnet_100 resnet18 res2net50_14w_8s regnety_002 hrnet_w18_small sequencer2d_s
"""
#: The fewest parameters of each module of timm 1.0.31 (`timm.list_modules()`), if not among those above.
SMALLEST = """
halonet_h1 test_byobnet coat_tiny convit_tiny test_convnext cpubone_nano csatv2 cs3darknet_focus_s cspnext_tiny
deepseek_vit_412m densenet121 dla46x_c dpn48b efficientformerv2_s0 test_efficientnet efficientvim_m1 efficientvit_b0
efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0 gcvit_xxtiny gemma4_vit_167m ghostnet_050 hardcorenas_b
hgnetv2_b0 sam2_hiera_tiny iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small
lowformer_b0 test_mambaout test_coatnet poolformerv2_s12 mobilenetv3_small_050 mobilenetv5_base mvitv2_tiny
naflexvit_base_patch16_parfac_gap nasnetalarge nest_tiny nextvit_small test_nfnet pnasnet5large qwen3_vit_88m
rdnet_tiny regnetx_002 repghostnet_050 res2next50 resnest14d test_resnet resnetv2_18 selecsls42 legacy_seresnet18
shvit_s1 skresnet18 starnet_s050 swiftformer_xs swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224
tnt_s_legacy_patch16_224 tresnet_m vgg11 visformer_tiny test_vit vit_tiny_r_s16_p8_224 test_vit_relpos
samvit_base_patch16_224 vitamin_small_224 ese_vovnet19b_slim_dw legacy_xception xception41p xcit_nano_12_p8_224
"""


def timm() -> Builders:
    with without_fake_kernels():
        import timm

    def build(name: str) -> Built:
        small, usual = 56 if "14" in name else 64, timm.get_pretrained_cfg(name).input_size[1]
        ways = [({"img_size": small}, square(small)), ({}, square(64)), ({}, square(usual))]
        return smallest(partial(timm.create_model, name), ways)

    return {name: partial(build, name) for name in (*SMALLEST.split(), *USED.split())}
